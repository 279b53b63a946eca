// Transfers of all three transaction types, nonces, receipts.
import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { parseEther, zeroAddress } from 'viem';
import { until } from '../../testnet.mjs';
import { accountOf, feeOf, fundedAccount, newAccount, publicClient, receiptOf, rpcOk, walletFor } from '../lib.mjs';

const options = { timeout: 60_000 };
const owner = accountOf('transfer');
const wallet = walletFor(owner);

for (const type of ['eip1559', 'eip2930', 'legacy']) {
  test(`a transfer of type ${type} moves exactly the value and the fee`, options, async () => {
    const to = newAccount().address;
    const value = parseEther('0.5');
    const before = await publicClient.getBalance({ address: owner.address });
    const hash = await wallet.sendTransaction({ to, value, type, ...(type === 'eip2930' ? { accessList: [] } : {}) });
    const receipt = await receiptOf(hash);

    assert.equal(receipt.status, 'success');
    assert.equal(receipt.type, type);
    assert.equal(receipt.gasUsed, 21_000n);
    assert.equal(receipt.from, owner.address.toLowerCase());
    assert.equal(receipt.to, to.toLowerCase());
    assert.equal(receipt.contractAddress, null);
    assert.deepEqual(receipt.logs, []);
    assert.equal(await publicClient.getBalance({ address: to }), value);
    // No margin: at a gas limit of exactly what is used, the charge is the gas used.
    const after = await publicClient.getBalance({ address: owner.address });
    assert.equal(before - after, value + feeOf(receipt));

    const transaction = await publicClient.getTransaction({ hash });
    assert.equal(transaction.blockHash, receipt.blockHash);
    assert.equal(transaction.blockNumber, receipt.blockNumber);
    assert.equal(transaction.transactionIndex, receipt.transactionIndex);
    assert.equal(transaction.value, value);
    assert.equal(transaction.from, owner.address.toLowerCase());
    const block = await publicClient.getBlock({ blockHash: receipt.blockHash, includeTransactions: true });
    assert.deepEqual(block.transactions[receipt.transactionIndex].hash, hash);
    const byIndex = await publicClient.getTransaction({ blockHash: receipt.blockHash, index: receipt.transactionIndex });
    assert.equal(byIndex.hash, hash);
  });
}

test('a lone transfer is estimated at 21000 gas', options, async () => {
  assert.equal(await publicClient.estimateGas({ account: owner, to: newAccount().address, value: 1n }), 21_000n);
});

test('nonces: latest counts what is executed, pending what is on its way as well', options, async () => {
  const account = await fundedAccount('transfer');
  const count = (blockTag) => publicClient.getTransactionCount({ address: account.address, blockTag });
  assert.equal(await count('latest'), 0);
  assert.equal(await count('pending'), 0);

  const to = newAccount().address;
  const hashes = [];
  for (let nonce = 0; nonce < 5; nonce += 1) {
    assert.equal(await count('pending'), nonce);
    hashes.push(await walletFor(account).sendTransaction({ to, value: 1n, nonce, gas: 21_000n }));
  }
  assert.equal(await count('pending'), 5);

  const receipts = [];
  for (const hash of hashes) receipts.push(await receiptOf(hash));
  assert.ok(receipts.every((receipt) => receipt.status === 'success'));
  const places = receipts.map((receipt) => receipt.blockNumber * 1_000_000n + BigInt(receipt.transactionIndex));
  assert.deepEqual(places, [...places].sort((a, b) => (a < b ? -1 : 1)), 'one sender runs in nonce order');
  assert.equal(await count('latest'), 5);
  assert.equal(await publicClient.getBalance({ address: to }), 5n);
});

test('a wallet that asks for nothing but sends twice at once gets both through', options, async () => {
  const account = await fundedAccount('transfer');
  const to = newAccount().address;
  const first = await walletFor(account).sendTransaction({ to, value: 1n });
  const second = await walletFor(account).sendTransaction({ to, value: 2n });
  await receiptOf(first);
  await receiptOf(second);
  assert.equal(await publicClient.getBalance({ address: to }), 3n);
});

test('a transaction to oneself and one without value only cost the fee', options, async () => {
  const account = await fundedAccount('transfer');
  const before = await publicClient.getBalance({ address: account.address });
  const receipt = await receiptOf(await walletFor(account).sendTransaction({ to: account.address, value: parseEther('0.1'), gas: 21_000n }));
  const other = await receiptOf(await walletFor(account).sendTransaction({ to: zeroAddress, gas: 21_000n }));
  const fees = feeOf(receipt) + feeOf(other);
  assert.deepEqual([receipt.gasUsed, other.gasUsed], [21_000n, 21_000n]);
  assert.equal(await publicClient.getBalance({ address: account.address }), before - fees);
});

test('balances of the past can be read at their height', options, async () => {
  const to = newAccount().address;
  const { blockNumber } = await receiptOf(await wallet.sendTransaction({ to, value: 7n }));
  assert.equal(await publicClient.getBalance({ address: to, blockNumber }), 7n);
  assert.equal(await publicClient.getBalance({ address: to, blockNumber: blockNumber - 1n }), 0n);
});

test('the transaction becomes safe: a final header carries its results', options, async () => {
  const { blockNumber } = await receiptOf(await wallet.sendTransaction({ to: newAccount().address, value: 1n }));
  await until('safe reaches the transaction', 30, async () => {
    const safe = await rpcOk('eth_getBlockByNumber', ['safe', false]);
    return safe !== null && BigInt(safe.number) >= blockNumber;
  });
});
