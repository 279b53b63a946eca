// WebSocket: ordinary calls, newHeads, logs, unsubscribe.
import { strict as assert } from 'node:assert';
import { after, test } from 'node:test';
import { createPublicClient, webSocket } from 'viem';
import { until } from '../../testnet.mjs';
import { accountOf, chain, deferred, deployToken, newAccount, publicClient, receiptOf, token, walletFor, wsUrl } from '../lib.mjs';

const options = { timeout: 60_000 };
const owner = accountOf('subscribe');
const transport = webSocket(wsUrl, { reconnect: false });
const socket = createPublicClient({ chain, transport });

after(async () => (await socket.transport.getRpcClient()).close());

test('calls over a WebSocket give what calls over HTTP give', options, async () => {
  assert.equal(await socket.getChainId(), await publicClient.getChainId());
  const block = await publicClient.getBlock({ blockTag: 'latest' });
  assert.deepEqual(await socket.getBlock({ blockHash: block.hash }), block);
});

test('newHeads delivers consecutive blocks that getBlock knows', options, async () => {
  const heads = [];
  const done = deferred('five heads');
  const { unsubscribe } = await socket.transport.subscribe({
    params: ['newHeads'],
    onData: ({ result }) => {
      heads.push(result);
      if (heads.length === 5) done.resolve();
    },
    onError: done.reject,
  });
  await done.promise;
  await unsubscribe();
  const numbers = heads.map((head) => BigInt(head.number));
  assert.deepEqual(numbers.slice(0, 5), [0n, 1n, 2n, 3n, 4n].map((step) => numbers[0] + step));
  for (const head of heads.slice(0, 5)) {
    assert.equal((await publicClient.getBlock({ blockNumber: BigInt(head.number) })).hash, head.hash);
  }

  const count = heads.length;
  const height = await publicClient.getBlockNumber();
  await until('two blocks after unsubscribing', 30, async () => (await publicClient.getBlockNumber()) >= height + 2n);
  assert.equal(heads.length, count, 'nothing comes after unsubscribe');
});

test('logs delivers what matches its filter and nothing else', options, async () => {
  const wanted = (await deployToken(owner)).contractAddress;
  const other = (await deployToken(owner)).contractAddress;
  const { abi } = token;
  const logs = [];
  const done = deferred('two logs');
  const unwatch = socket.watchContractEvent({
    address: wanted,
    abi,
    eventName: 'Transfer',
    poll: false,
    onLogs: (batch) => {
      logs.push(...batch);
      if (logs.length >= 2) done.resolve();
    },
    onError: done.reject,
  });
  // viem subscribes in the background: a call on the same socket is answered after it.
  await socket.getChainId();

  const wallet = walletFor(owner);
  const to = newAccount().address;
  const send = async (address, value) => receiptOf(await wallet.writeContract({ address, abi, functionName: 'transfer', args: [to, value] }));
  const first = await send(wanted, 1n);
  await send(other, 99n);
  const second = await send(wanted, 2n);
  await done.promise;
  unwatch();
  assert.deepEqual(logs.map((log) => log.transactionHash), [first.transactionHash, second.transactionHash]);
  assert.deepEqual(logs.map((log) => log.args.value), [1n, 2n]);
});

test('viem watches blocks over the socket', options, async () => {
  const done = deferred('a block');
  const unwatch = socket.watchBlocks({ onBlock: done.resolve, onError: done.reject });
  const block = await done.promise;
  unwatch();
  assert.ok(block.number >= 0n && block.hash);
});
