// A smoke test with Foundry's `cast`, where it is installed (CASCADE_CAST or PATH); the README's examples are the same.
import { strict as assert } from 'node:assert';
import { execFile, spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { accountOf, httpUrl, keyOf, newAccount, testnet, token } from '../lib.mjs';

const program = process.env.CASCADE_CAST ?? 'cast';
const missing = spawnSync(program, ['--version']).status !== 0 && 'cast is not installed';
const options = { timeout: 60_000, skip: missing };

async function cast(command, ...args) {
  const env = { ...process.env, NO_COLOR: '1' };
  const { stdout } = await promisify(execFile)(program, [command, '--rpc-url', httpUrl, ...args], { env });
  return stdout.trim();
}

test('chain, balance and a block', options, async () => {
  assert.equal(await cast('chain-id'), String(testnet.chain_id));
  assert.ok(BigInt(await cast('balance', accountOf('cast').address)) > 0n);
  assert.ok(JSON.parse(await cast('block', 'latest', '--json')).hash);
});

test('send, receipt and balance', options, async () => {
  const to = newAccount().address;
  const receipt = JSON.parse(await cast('send', '--private-key', keyOf('cast'), to, '--value', '3', '--json'));
  assert.equal(receipt.status, '0x1');
  assert.equal(await cast('balance', to), '3');
  assert.equal(JSON.parse(await cast('receipt', receipt.transactionHash, '--json')).blockHash, receipt.blockHash);
});

test('deploy, call, send and logs', options, async () => {
  const create = ['--create', token.bytecode, 'constructor(string,string,uint256)', 'Cast', 'CST', '50'];
  const { contractAddress } = JSON.parse(await cast('send', '--private-key', keyOf('cast'), '--json', ...create));
  assert.equal(await cast('call', contractAddress, 'symbol()(string)'), '"CST"');
  const to = newAccount().address;
  assert.ok(BigInt(await cast('estimate', '--from', accountOf('cast').address, contractAddress, 'transfer(address,uint256)', to, '8')) > 21_000n);
  await cast('send', '--private-key', keyOf('cast'), contractAddress, 'transfer(address,uint256)', to, '8');
  assert.equal(await cast('call', contractAddress, 'balanceOf(address)(uint256)', to), '8');
  const logs = JSON.parse(await cast('logs', '--address', contractAddress, '--from-block', '0', '--json'));
  assert.equal(logs.length, 2, 'one of the deployment, one of the transfer');
});
