// See ./run.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withTestnet } from '../testnet.mjs';

const folder = join(dirname(fileURLToPath(import.meta.url)), 'test');
const chosen = process.argv.slice(2);
const files = readdirSync(folder)
  .filter((name) => name.endsWith('.test.mjs'))
  .filter((name) => chosen.length === 0 || chosen.some((part) => name.includes(part)))
  .sort()
  .map((name) => join(folder, name));
if (files.length === 0) {
  console.error(`no test file matches ${chosen.join(' ')}`);
  process.exit(2);
}

// One file after the other: the cluster shares the cores with its clients.
function runTests(env) {
  const args = ['--test', '--test-concurrency=1', '--test-reporter=spec', ...files];
  return spawnSync(process.execPath, args, { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, ...env } }).status ?? 1;
}

if (process.env.CASCADE_RPC_HTTP && process.env.CASCADE_RPC_WS && process.env.CASCADE_TESTNET) {
  process.exitCode = runTests({});
} else {
  // The same tests twice: at a node of a plain chain, and at the proxy of an encrypted one.
  for (const kind of ['plain', 'encrypted'].filter((kind) => (process.env.CASCADE_E2E ?? kind) === kind)) {
    console.log(`--- ${kind}`);
    const flags = ['--nodes', '4', ...(kind === 'plain' ? ['--plain'] : [])];
    process.exitCode ||= await withTestnet((info, testnet) => {
      const { http, ws } = info.proxy ?? info.rpc[0];
      return runTests({ CASCADE_RPC_HTTP: http, CASCADE_RPC_WS: ws, CASCADE_TESTNET: join(testnet.data, 'testnet.json') });
    }, flags);
  }
}
