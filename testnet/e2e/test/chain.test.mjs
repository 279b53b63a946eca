// What a wallet asks before it sends anything: chain, blocks, tags, fees.
import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { isHash, isHex, size } from 'viem';
import { until } from '../../testnet.mjs';
import { chain, httpUrl, publicClient, rpc, rpcFails, rpcOk, testnet } from '../lib.mjs';

const options = { timeout: 60_000 };

test('chain id, network id and client version agree with the cluster', options, async () => {
  assert.equal(await publicClient.getChainId(), testnet.chain_id);
  assert.equal(await rpcOk('net_version'), String(testnet.chain_id));
  assert.match(await rpcOk('web3_clientVersion'), /^cascade\//i);
  assert.equal(await rpcOk('eth_syncing'), false);
  assert.deepEqual(await rpcOk('eth_accounts'), []);
});

test('blocks go on and are linked by their hashes', options, async () => {
  const first = await publicClient.getBlock({ blockTag: 'latest' });
  await until('three more blocks', 30, async () => (await publicClient.getBlockNumber()) >= first.number + 3n);
  let parent = first;
  for (let number = first.number + 1n; number <= first.number + 3n; number += 1n) {
    const block = await publicClient.getBlock({ blockNumber: number });
    assert.equal(block.number, number);
    assert.equal(block.parentHash, parent.hash);
    assert.ok(block.timestamp >= parent.timestamp);
    parent = block;
  }
});

test('a block has every field that wallets read, by number and by hash', options, async () => {
  const block = await publicClient.getBlock({ blockTag: 'latest' });
  for (const field of ['hash', 'parentHash', 'stateRoot', 'transactionsRoot', 'receiptsRoot', 'sha3Uncles', 'mixHash']) {
    assert.ok(isHash(block[field]), `${field} is ${block[field]}`);
  }
  assert.equal(size(block.logsBloom), 256);
  assert.ok(isHex(block.extraData));
  assert.equal(size(block.miner), 20);
  assert.equal(size(block.nonce), 8);
  assert.equal(block.difficulty, 0n);
  assert.ok(block.gasLimit >= 21_000n && block.baseFeePerGas >= 1n && block.size > 0n);
  assert.ok(Array.isArray(block.transactions) && Array.isArray(block.uncles));
  assert.deepEqual(await publicClient.getBlock({ blockHash: block.hash }), block);
  assert.equal(await publicClient.getBlockTransactionCount({ blockHash: block.hash }), block.transactions.length);
});

test('tags are ordered: earliest <= finalized <= safe <= latest <= pending', options, async () => {
  await until('a safe block', 30, async () => (await rpcOk('eth_getBlockByNumber', ['safe', false])) !== null);
  const numbers = [];
  for (const tag of ['earliest', 'finalized', 'safe', 'latest', 'pending']) {
    numbers.push(BigInt((await rpcOk('eth_getBlockByNumber', [tag, false])).number));
  }
  assert.deepEqual(numbers, [...numbers].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)));
  assert.equal(numbers[0], 0n);
});

test('what does not exist is null, not an error', options, async () => {
  const nothing = `0x${'11'.repeat(32)}`;
  assert.equal(await rpcOk('eth_getBlockByHash', [nothing, false]), null);
  assert.equal(await rpcOk('eth_getBlockByNumber', ['0xffffffffff', false]), null);
  assert.equal(await rpcOk('eth_getTransactionByHash', [nothing]), null);
  assert.equal(await rpcOk('eth_getTransactionReceipt', [nothing]), null);
});

test('fee history covers the blocks asked for, one base fee more, and the reward percentiles', options, async () => {
  await until('five blocks', 30, async () => (await publicClient.getBlockNumber()) >= 5n);
  const history = await publicClient.getFeeHistory({ blockCount: 4, rewardPercentiles: [10, 50, 90], blockTag: 'latest' });
  assert.equal(history.baseFeePerGas.length, 5);
  assert.equal(history.gasUsedRatio.length, 4);
  assert.equal(history.reward.length, 4);
  for (const reward of history.reward) assert.equal(reward.length, 3);
  for (const ratio of history.gasUsedRatio) assert.ok(ratio >= 0 && ratio <= 1);
  const block = await publicClient.getBlock({ blockNumber: history.oldestBlock });
  assert.equal(history.baseFeePerGas[0], block.baseFeePerGas);
  // What MetaMask sends.
  const wallet = await rpcOk('eth_feeHistory', ['0x5', 'latest', [10, 20, 30]]);
  assert.ok(wallet.baseFeePerGas.length >= 2);
});

test('suggested fees are enough for the next block', options, async () => {
  const { maxFeePerGas, maxPriorityFeePerGas } = await publicClient.estimateFeesPerGas({ chain });
  const { baseFeePerGas } = await publicClient.getBlock({ blockTag: 'latest' });
  assert.ok(maxFeePerGas >= baseFeePerGas && maxPriorityFeePerGas <= maxFeePerGas);
  assert.ok((await publicClient.getGasPrice()) >= baseFeePerGas);
});

test('a batch is answered in full', options, async () => {
  const batch = ['eth_chainId', 'eth_blockNumber', 'net_version'].map((method, id) => ({ jsonrpc: '2.0', id, method, params: [] }));
  const response = await fetch(httpUrl, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(batch),
  });
  const answers = await response.json();
  assert.deepEqual(answers.map((answer) => answer.id).sort(), [0, 1, 2]);
  assert.ok(answers.every((answer) => answer.result !== undefined));
});

test('unknown methods and wrong parameters have the codes of JSON-RPC', options, async () => {
  await rpcFails('eth_noSuchMethod', [], -32601, /./);
  await rpcFails('eth_getBalance', ['nonsense', 'latest'], -32602, /./);
  await rpcFails('eth_getBalance', [], -32602, /./);
  const answer = await fetch(httpUrl, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{' });
  assert.equal((await answer.json()).error.code, -32700);
});

test('the state tree is not a Merkle Patricia tree, so eth_getProof is absent', options, async () => {
  await rpcFails('eth_getProof', [`0x${'00'.repeat(20)}`, [], 'latest'], -32601, /./);
  assert.equal(typeof (await rpc('l2_health')).result, 'object');
});
