// Runs the code blocks of README.md as a new user would: in order, with an empty HOME, against a testnet.
//
// A block is run when the line above its fence is one of these comments:
//
//   <!-- test -->            must exit with 0
//   <!-- test: testnet -->   starts a testnet; it is ready before the next block runs, and stopped with SIGINT at the end
//   <!-- test: if cast -->   as the first, where the program (here `cast`) is installed; else it is skipped and said so
//
// Blocks run with `bash -euo pipefail` at the root of the repository. Variables: RPC and WS (URLs of the proxy), NODE (that of
// the first node), KEY and ADDRESS (a funded account), DATA (the cluster's data directory), GENESIS, BOOTSTRAP (the first node's address); what a block exports is not kept. A testnet
// block is run with `--data DATA` added to its command; when README has none, one is started before the first block.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { Testnet, cascadeBinary, root } from './testnet.mjs';

const file = process.argv[2] ?? join(root, 'README.md');

// The marked blocks of a Markdown text: {line, kind, program, code}.
export function blocks(text) {
  const lines = text.split('\n');
  const found = [];
  for (let i = 0; i < lines.length; i += 1) {
    const marker = /^<!-- test(?:: (?:(testnet)|if (\S+)))? -->$/.exec(lines[i]);
    if (!marker) {
      if (/^<!-- *test/.test(lines[i])) throw new Error(`line ${i + 1}: not a marker: ${lines[i]}`);
      continue;
    }
    if (lines[i + 1] !== '```sh') throw new Error(`line ${i + 2}: a \`\`\`sh block must follow the marker`);
    const end = lines.indexOf('```', i + 2);
    if (end < 0) throw new Error(`line ${i + 2}: the block does not end`);
    found.push({ line: i + 2, kind: marker[1] ?? 'run', program: marker[2], code: lines.slice(i + 2, end).join('\n') });
    i = end;
  }
  return found;
}

const installed = (program) => spawnSync('bash', ['-c', 'command -v "$1"', 'bash', program]).status === 0;

async function main() {
  const work = blocks(readFileSync(file, 'utf8'));
  if (work.length === 0) throw new Error(`${file} has no block that is marked for testing`);
  const scratch = mkdtempSync(join(tmpdir(), 'cascade-readme-'));
  const home = join(scratch, 'home');
  mkdirSync(home);
  // Rust's own folders stay where they are: without them `cargo` in an empty HOME would be no cargo at all.
  const old = process.env.HOME ?? '/root';
  const env = {
    ...process.env,
    HOME: home,
    CARGO_HOME: process.env.CARGO_HOME ?? join(old, '.cargo'),
    RUSTUP_HOME: process.env.RUSTUP_HOME ?? join(old, '.rustup'),
    PATH: [dirname(cascadeBinary()), process.env.PATH].join(delimiter),
    DATA: join(scratch, 'data'),
    NO_COLOR: '1',
  };

  let testnet;
  const startTestnet = async (code) => {
    const command = code.split('\n').find((line) => line.trim() && !line.startsWith('#'));
    testnet = new Testnet(['bash', '-c', `exec ${command} --data "$DATA"`], env.DATA, { env, cwd: root });
    // The command may build first.
    const info = await testnet.ready(1800);
    Object.assign(env, {
      RPC: info.proxy.http,
      WS: info.proxy.ws,
      NODE: info.rpc[0].http,
      GENESIS: info.genesis,
      BOOTSTRAP: info.network[0],
      ADDRESS: info.accounts[6].address,
      KEY: info.accounts[6].private_key,
    });
  };

  let failed = false;
  try {
    if (!work.some((block) => block.kind === 'testnet')) await startTestnet('cascade testnet --nodes 4');
    for (const { line, kind, program, code } of work) {
      const where = `README.md:${line}`;
      if (kind === 'testnet') {
        console.log(`--- ${where}: testnet\n${code}`);
        await startTestnet(code);
      } else if (program && !installed(program)) {
        console.log(`--- ${where}: skipped, ${program} is not installed`);
      } else {
        console.log(`--- ${where}\n${code}`);
        const { status, signal } = spawnSync('bash', ['-euo', 'pipefail', '-c', code], {
          cwd: root,
          env,
          stdio: ['ignore', 'inherit', 'inherit'],
          timeout: 900_000,
        });
        if (status !== 0) throw new Error(`${where} ended with ${signal ?? `exit code ${status}`}`);
      }
    }
  } catch (error) {
    failed = true;
    console.error(`FAILED: ${error.message}`);
  }
  if (testnet) {
    await testnet.stop().catch((error) => {
      failed = true;
      console.error(`FAILED: ${error.message}`);
    });
    if (failed) testnet.printLogEnd();
  }
  if (failed) {
    console.error(`--- kept: ${scratch}`);
    process.exit(1);
  }
  rmSync(scratch, { recursive: true, force: true });
  console.log(`${file}: ${work.length} blocks`);
}

await main().catch((error) => {
  console.error(`FAILED: ${error.message}`);
  process.exit(1);
});
