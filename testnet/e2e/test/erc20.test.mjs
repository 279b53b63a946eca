// Deploy an ERC-20, call it, estimate it, read its logs.
import { strict as assert } from 'node:assert';
import { before, test } from 'node:test';
import { BaseError, ContractFunctionRevertedError, decodeEventLog, encodeFunctionData, getContractAddress, parseEther, zeroAddress } from 'viem';
import { accountOf, deployToken, newAccount, publicClient, receiptOf, rpcFails, rpcOk, token, walletFor } from '../lib.mjs';

const options = { timeout: 60_000 };
const owner = accountOf('erc20');
const wallet = walletFor(owner);
const supply = parseEther('1000');
const { abi } = token;
const transferTopic = '0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef';

let address;
let deployment;

const read = (functionName, args = [], more = {}) => publicClient.readContract({ address, abi, functionName, args, ...more });
const write = async (functionName, args) => receiptOf(await wallet.writeContract({ address, abi, functionName, args }));

before(async () => {
  deployment = await deployToken(owner, supply);
  address = deployment.contractAddress;
}, options);

test('the deployment has the address that sender and nonce give, code, and one log', options, async () => {
  const { nonce } = await publicClient.getTransaction({ hash: deployment.transactionHash });
  assert.equal(address.toLowerCase(), getContractAddress({ from: owner.address, nonce: BigInt(nonce) }).toLowerCase());
  assert.ok((await publicClient.getCode({ address })).length > 100);
  assert.equal(deployment.to, null);
  assert.equal(deployment.logs.length, 1);
  const event = decodeEventLog({ abi, data: deployment.logs[0].data, topics: deployment.logs[0].topics });
  assert.deepEqual(event, { eventName: 'Transfer', args: { from: zeroAddress, to: owner.address, value: supply } });
});

test('calls read what the constructor wrote', options, async () => {
  assert.equal(await read('name'), 'Test Token');
  assert.equal(await read('symbol'), 'TST');
  assert.equal(await read('decimals'), 18);
  assert.equal(await read('totalSupply'), supply);
  assert.equal(await read('balanceOf', [owner.address]), supply);
  assert.notEqual(await publicClient.getStorageAt({ address, slot: '0x0' }), `0x${'00'.repeat(32)}`);
});

test('a transfer is simulated, estimated, sent, and changes the balances', options, async () => {
  const to = newAccount().address;
  const { result } = await publicClient.simulateContract({ account: owner, address, abi, functionName: 'transfer', args: [to, 5n] });
  assert.equal(result, true);
  const estimate = await publicClient.estimateContractGas({ account: owner, address, abi, functionName: 'transfer', args: [to, 5n] });
  const receipt = await write('transfer', [to, 5n]);
  assert.equal(receipt.status, 'success');
  assert.ok(receipt.gasUsed <= estimate && estimate < receipt.gasUsed * 2n, `estimated ${estimate}, used ${receipt.gasUsed}`);
  assert.equal(await read('balanceOf', [to]), 5n);
  assert.equal(await read('balanceOf', [to], { blockNumber: receipt.blockNumber - 1n }), 0n, 'before the block');
});

test('a revert is code 3 with its data; viem decodes text and custom errors', options, async () => {
  const stranger = newAccount();
  const pull = { address, abi, functionName: 'transferFrom', args: [owner.address, stranger.address, 1n], account: stranger };
  const error = await publicClient.simulateContract(pull).then(
    () => assert.fail('transferFrom without allowance must revert'),
    (reason) => reason,
  );
  assert.ok(error instanceof BaseError);
  assert.equal(error.walk((inner) => inner instanceof ContractFunctionRevertedError).reason, 'TestToken: allowance too low');

  const call = { from: stranger.address, to: address, data: encodeFunctionData({ abi, functionName: 'transfer', args: [owner.address, 9n] }) };
  for (const method of ['eth_call', 'eth_estimateGas']) {
    const raw = await rpcFails(method, [call], 3, /^execution reverted/);
    assert.equal(raw.data.slice(0, 10), '0xdb42144d', 'the selector of InsufficientBalance(address,uint256,uint256)');
  }
  const text = { from: stranger.address, to: address, data: encodeFunctionData(pull) };
  await rpcFails('eth_call', [text, 'latest'], 3, /^execution reverted: TestToken: allowance too low$/);
});

test('a reverting transaction is included, fails, costs gas and leaves no logs', options, async () => {
  const before = await read('balanceOf', [owner.address]);
  const hash = await wallet.writeContract({ address, abi, functionName: 'transfer', args: [zeroAddress, supply * 2n], gas: 100_000n });
  const receipt = await receiptOf(hash);
  assert.equal(receipt.status, 'reverted');
  assert.deepEqual(receipt.logs, []);
  assert.ok(receipt.gasUsed > 21_000n);
  assert.equal(await read('balanceOf', [owner.address]), before);
});

test('logs are found by address, topic, range and block hash', options, async () => {
  const [a, b] = [newAccount().address, newAccount().address];
  const first = await write('transfer', [a, 1n]);
  const second = await write('transfer', [b, 2n]);
  const range = { fromBlock: first.blockNumber, toBlock: second.blockNumber };
  const logs = await publicClient.getContractEvents({ address, abi, eventName: 'Transfer', ...range });
  assert.deepEqual(logs.map((log) => log.args), [
    { from: owner.address, to: a, value: 1n },
    { from: owner.address, to: b, value: 2n },
  ]);
  assert.ok(logs.every((log) => log.removed === false && log.address.toLowerCase() === address.toLowerCase()));
  assert.equal(logs[0].transactionHash, first.transactionHash);
  assert.equal(logs[0].blockHash, first.blockHash);

  const toB = await publicClient.getContractEvents({ address, abi, eventName: 'Transfer', args: { to: b }, ...range });
  assert.deepEqual(toB.map((log) => log.transactionHash), [second.transactionHash]);
  const either = await publicClient.getContractEvents({ address, abi, eventName: 'Transfer', args: { to: [a, b] }, ...range });
  assert.equal(either.length, 2);
  const inBlock = await publicClient.getLogs({ address, blockHash: second.blockHash });
  assert.deepEqual(inBlock.map((log) => log.transactionHash), [second.transactionHash]);
  assert.deepEqual(await publicClient.getLogs({ address: newAccount().address, ...range }), []);
  assert.deepEqual(await rpcOk('eth_getLogs', [{ blockHash: first.blockHash, topics: [`0x${'22'.repeat(32)}`] }]), []);
});

test('a block bloom holds the address and topics of its logs', options, async () => {
  const receipt = await write('transfer', [newAccount().address, 1n]);
  const block = await publicClient.getBlock({ blockHash: receipt.blockHash });
  assert.notEqual(BigInt(block.logsBloom), 0n);
  assert.equal(BigInt(block.logsBloom) & BigInt(receipt.logsBloom), BigInt(receipt.logsBloom));
});

test('filters deliver each log and each block once, and are gone when uninstalled', options, async () => {
  const logFilter = await publicClient.createContractEventFilter({ address, abi, eventName: 'Transfer' });
  const blockFilter = await publicClient.createBlockFilter();
  const to = newAccount().address;
  const receipt = await write('transfer', [to, 3n]);

  const changes = await publicClient.getFilterChanges({ filter: logFilter });
  assert.deepEqual(changes.map((log) => log.transactionHash), [receipt.transactionHash]);
  assert.equal(changes[0].args.to, to);
  assert.deepEqual(await publicClient.getFilterChanges({ filter: logFilter }), [], 'the second poll has nothing new');
  assert.ok((await publicClient.getFilterChanges({ filter: blockFilter })).includes(receipt.blockHash));

  const from = `0x${receipt.blockNumber.toString(16)}`;
  const all = await rpcOk('eth_newFilter', [{ address, fromBlock: from, topics: [transferTopic] }]);
  const logs = await rpcOk('eth_getFilterLogs', [all]);
  assert.deepEqual(logs.map((log) => log.transactionHash), [receipt.transactionHash]);

  assert.equal(await publicClient.uninstallFilter({ filter: logFilter }), true);
  assert.equal(await publicClient.uninstallFilter({ filter: logFilter }), false);
  await rpcFails('eth_getFilterChanges', [logFilter.id], -32000, /^filter not found$/);
});
