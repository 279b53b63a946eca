// Starts and stops `cascade testnet` for the end-to-end and README tests.
//
//   start -> DATA/testnet.json appears -> its first node answers and makes blocks -> tests -> SIGINT -> exit code 0
//
// Every wait is for a condition and bounded. The cluster's stderr goes to a file, whose end is shown on failure.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

// The command under test: CASCADE_BIN, else what `cargo build` makes.
export function cascadeBinary() {
  const binary = process.env.CASCADE_BIN ?? join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'debug', 'cascade');
  if (!existsSync(binary)) {
    console.error(`${binary} does not exist; build it first: ./dev test --only e2e does`);
    process.exit(2);
  }
  return binary;
}

// Polls until `condition` returns something true (and returns that), or fails after `seconds`.
export async function until(what, seconds, condition) {
  const end = Date.now() + seconds * 1000;
  let last;
  for (;;) {
    try {
      const value = await condition();
      if (value) return value;
    } catch (error) {
      if (error.fatal) throw error;
      last = error;
    }
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}${last ? ` (${last.message})` : ''}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export async function rpc(url, method, params = []) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
  });
  return response.json();
}

export class Testnet {
  // command: program and arguments that start a testnet with its data in `data`.
  constructor(command, data, options = {}) {
    this.data = data;
    this.log = `${data}.log`;
    const log = openSync(this.log, 'w');
    this.child = spawn(command[0], command.slice(1), { stdio: ['ignore', log, log], ...options });
    this.exited = new Promise((resolve) => {
      this.child.on('error', (error) => resolve({ error }));
      this.child.on('exit', (code, signal) => resolve({ code, signal }));
    });
    this.exited.then((result) => {
      this.result = result;
    });
  }

  static start(args = ['--nodes', '4'], options = {}) {
    const data = join(mkdtempSync(join(tmpdir(), 'cascade-testnet-')), 'data');
    return new Testnet([cascadeBinary(), 'testnet', '--json', '--data', data, ...args], data, options);
  }

  // What DATA/testnet.json says, once the first node has made a block.
  async ready(seconds = 60) {
    const alive = () => {
      if (this.result) throw Object.assign(new Error(`the testnet ended: ${describe(this.result)}`), { fatal: true });
    };
    this.info = await until(`${this.data}/testnet.json`, seconds, () => {
      alive();
      return JSON.parse(readFileSync(join(this.data, 'testnet.json'), 'utf8'));
    });
    await until('a block from the first node', seconds, async () => {
      alive();
      return BigInt((await rpc(this.info.rpc[0].http, 'eth_blockNumber')).result) > 0n;
    });
    if (this.info.proxy) {
      await until("the first epoch's key", seconds, async () => {
        alive();
        const { epoch, keys } = (await rpc(this.info.proxy.http, 'l2_epochKey')).result;
        return keys.some((key) => key.epoch === epoch);
      });
    }
    await until('a healthy first node', seconds, async () => {
      alive();
      return (await rpc(this.info.rpc[0].http, 'l2_health')).result.status === 'healthy';
    });
    return this.info;
  }

  // Ctrl-C: the cluster must end by itself, with exit code 0.
  async stop(seconds = 30) {
    if (!this.result) this.child.kill('SIGINT');
    await until('the testnet ends after SIGINT', seconds, () => this.result).catch((error) => {
      this.child.kill('SIGKILL');
      throw error;
    });
    if (this.result.code !== 0) throw new Error(`the testnet ended with ${describe(this.result)}`);
    if (this.logText().includes('panicked at')) throw new Error('a node panicked');
  }

  logText() {
    return readFileSync(this.log, 'utf8');
  }

  printLogEnd(lines = 60) {
    console.error(`--- the end of ${this.log}`);
    console.error(this.logText().split('\n').slice(-lines).join('\n'));
  }

  remove() {
    rmSync(dirname(this.data), { recursive: true, force: true });
  }
}

function describe({ error, code, signal }) {
  if (error) return error.message;
  return signal ? `signal ${signal}` : `exit code ${code}`;
}

// Runs `work(info, testnet)` against a fresh testnet and returns its exit code; stops the testnet in every case.
export async function withTestnet(work, args, options) {
  const testnet = Testnet.start(args, options);
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, () => {
      testnet.child.kill('SIGINT');
      process.exit(130);
    });
  }
  let code = 1;
  try {
    const info = await testnet.ready();
    code = await work(info, testnet);
  } catch (error) {
    console.error(`FAILED: ${error.message}`);
  }
  try {
    await testnet.stop();
  } catch (error) {
    console.error(`FAILED: ${error.message}`);
    code ||= 1;
  }
  if (code === 0) {
    testnet.remove();
  } else {
    testnet.printLogEnd();
    console.error(`--- kept: ${testnet.data}`);
  }
  return code;
}
