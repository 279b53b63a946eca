// Starts `cascade testnet --monitor`, sends transfers, and asks its Prometheus everything that the dashboard asks: each
// query must give at least one number. Also: all nodes are scraped, the rules are loaded and quiet, and the files that
// `--monitor` wrote are those of this folder.
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cascadeBinary, until, withTestnet } from '../testnet.mjs';

const NODES = 4;
// Rates need a few scrapes, which come every 2 s.
const SECONDS = 60;
const folder = dirname(fileURLToPath(import.meta.url));
const dashboard = JSON.parse(readFileSync(join(folder, 'dashboards/overview.json'), 'utf8'));

function queriesOf(panels) {
  return panels.flatMap((panel) => [
    ...queriesOf(panel.panels ?? []),
    ...(panel.targets ?? []).map((target) => ({ title: panel.title, query: target.expr })),
  ]);
}

// What Grafana puts in before it asks.
const filled = (query) => query.replaceAll('$__rate_interval', '10s').replaceAll('$instance', '.*');

async function api(prometheus, path) {
  const response = await fetch(`${prometheus}/api/v1/${path}`);
  const answer = await response.json();
  if (answer.status !== 'success') throw Object.assign(new Error(`${path}: ${answer.error}`), { fatal: true });
  return answer.data;
}

// How many series of an instant query have a number; NaN is what a quantile of nothing gives.
async function numbers(prometheus, query) {
  const data = await api(prometheus, `query?query=${encodeURIComponent(filled(query))}`);
  return data.result.filter((series) => Number.isFinite(Number(series.value[1]))).length;
}

// Transfers from one account through the proxy, one after the other, until `stop.asked`.
async function load(url, account, stop) {
  const to = '0x000000000000000000000000000000000000dEaD';
  const args = ['send', '--rpc', url, '--account', String(account), '--to', to, '--value', '0.001', '--json'];
  let sent = 0;
  while (!stop.asked) {
    const child = spawn(cascadeBinary(), args, { stdio: 'ignore' });
    const code = await new Promise((resolve) => child.on('exit', resolve));
    if (code !== 0) throw new Error(`cascade send ended with exit code ${code}`);
    sent += 1;
  }
  return sent;
}

async function check(info, testnet) {
  const { prometheus } = info;
  const queries = queriesOf(dashboard.panels);
  const config = spawnSync('promtool', ['check', 'config', join(testnet.data, 'monitor/prometheus.yml')], { encoding: 'utf8' });
  if (config.status !== 0) throw new Error(`promtool check config: ${config.stdout}${config.stderr}`);
  for (const [written, source] of [['alerts.yml', 'alerts.yml'], ['grafana/dashboards/overview.json', 'dashboards/overview.json']]) {
    if (readFileSync(join(testnet.data, 'monitor', written), 'utf8') !== readFileSync(join(folder, source), 'utf8')) {
      throw new Error(`the program writes another ${written} than testnet/monitoring/${source}: build it again`);
    }
  }
  await until(`${NODES} nodes are scraped`, SECONDS, async () => {
    const { activeTargets } = await api(prometheus, 'targets?state=active');
    return activeTargets.length === NODES && activeTargets.every((target) => target.health === 'up');
  });

  const stop = { asked: false };
  const senders = info.rpc.map((_, i) => load(info.proxy.http, i, stop));
  const failed = new Promise((_, reject) => senders.forEach((sender) => sender.catch(reject)));
  const begin = Date.now();
  let silent = queries;
  try {
    const all = until(`numbers for ${queries.length} queries`, SECONDS, async () => {
      const still = [];
      for (const item of silent) if ((await numbers(prometheus, item.query)) === 0) still.push(item);
      silent = still;
      return silent.length === 0;
    });
    await Promise.race([all, failed]);
  } catch (error) {
    for (const { title, query } of silent) console.error(`no data: ${title}: ${filled(query)}`);
    throw error;
  } finally {
    stop.asked = true;
  }
  const sent = (await Promise.all(senders)).reduce((sum, n) => sum + n, 0);

  if ((await numbers(prometheus, 'cascade_no_such_metric')) !== 0) throw new Error('a metric that does not exist has data');
  const instances = await api(prometheus, 'label/instance/values?match[]=cascade_consensus_final_height');
  if (instances.length !== NODES) throw new Error(`the variable "instance" offers ${instances}`);
  const { groups } = await api(prometheus, 'rules');
  const rules = groups.flatMap((group) => group.rules);
  const bad = rules.filter((rule) => rule.health === 'err' || rule.state === 'firing');
  if (rules.length === 0 || bad.length > 0) {
    throw new Error(`alert rules: ${rules.length} loaded; ${bad.map((rule) => `${rule.name} ${rule.state} ${rule.lastError ?? ''}`)}`);
  }
  const seconds = ((Date.now() - begin) / 1000).toFixed(0);
  console.log(`${queries.length} queries have data after ${seconds} s and ${sent} transfers; ${rules.length} alert rules are quiet`);
  return 0;
}

process.exitCode = await withTestnet(check, ['--nodes', String(NODES), '--monitor']);
