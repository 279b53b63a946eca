// What geth users know: the code and message of every refusal. README.md beside this folder has the list.
import { strict as assert } from 'node:assert';
import { before, test } from 'node:test';
import {
  BaseError,
  InsufficientFundsError,
  IntrinsicGasTooLowError,
  NonceTooLowError,
  concatHex,
  numberToHex,
  parseEther,
  parseTransaction,
  serializeTransaction,
  toRlp,
} from 'viem';
import { accountOf, chain, encrypted, newAccount, publicClient, receiptOf, rpc, rpcFails, rpcOk, walletFor } from '../lib.mjs';

const options = { timeout: 60_000 };
const owner = accountOf('errors');
const CURVE_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
let fields;

// A transaction that the chain would take, with the owner's next nonce.
async function nextTransaction(changes = {}) {
  const nonce = await publicClient.getTransactionCount({ address: owner.address, blockTag: 'pending' });
  return { ...fields, to: newAccount().address, nonce, ...changes };
}

const submit = (raw, message, code = -32000) => rpcFails('eth_sendRawTransaction', [raw], code, message);

before(async () => {
  const { maxFeePerGas } = await publicClient.estimateFeesPerGas({ chain });
  fields = { type: 'eip1559', chainId: chain.id, gas: 21_000n, value: 1n, maxFeePerGas: maxFeePerGas * 10n, maxPriorityFeePerGas: 1n };
});

test('wrong chain id', options, async () => {
  const raw = await owner.signTransaction(await nextTransaction({ chainId: 1 }));
  await submit(raw, new RegExp(`^invalid sender: invalid chain id for signer: have 1 want ${chain.id}$`));
});

test('bad signature: s in the upper half, r beyond the curve order', options, async () => {
  const { r, s, yParity, v, ...unsigned } = parseTransaction(await owner.signTransaction(await nextTransaction()));
  const highS = numberToHex(CURVE_ORDER - BigInt(s), { size: 32 });
  const message = /^invalid sender: invalid transaction v, r, s values$/;
  await submit(serializeTransaction(unsigned, { r, s: highS, yParity: 1 - yParity }), message);
  await submit(serializeTransaction(unsigned, { r: `0x${'ff'.repeat(32)}`, s, yParity }), message);
});

test('a legacy transaction without chain id could be replayed', options, async () => {
  const { gas, value, maxFeePerGas: gasPrice, to, nonce } = await nextTransaction();
  const raw = await owner.signTransaction({ type: 'legacy', gas, value, gasPrice, to, nonce });
  await submit(raw, /^only replay-protected \(EIP-155\) transactions allowed over RPC$/);
});

test('fee below the base fee', options, async () => {
  const raw = await owner.signTransaction(await nextTransaction({ maxFeePerGas: 0n, maxPriorityFeePerGas: 0n }));
  await submit(raw, /^(max fee per gas less than block base fee|transaction underpriced)(:|$)/);
});

test('priority fee above the fee', options, async () => {
  const { r, s, yParity, v, ...unsigned } = parseTransaction(await owner.signTransaction(await nextTransaction()));
  const changed = { ...unsigned, maxPriorityFeePerGas: unsigned.maxFeePerGas + 1n };
  // viem refuses to sign this one. The signature is that of other content, which geth looks at after the fees.
  await submit(encodeUnchecked(changed, { r, s, yParity }), /^max priority fee per gas higher than max fee per gas(:|$)/);
});

test('old nonce, and the same transaction once more', options, async () => {
  const transaction = await nextTransaction();
  const raw = await owner.signTransaction(transaction);
  const hash = await rpcOk('eth_sendRawTransaction', [raw]);
  if (encrypted) assert.equal(await rpcOk('eth_sendRawTransaction', [raw]), hash);
  else await rpcFails('eth_sendRawTransaction', [raw], -32000, /^(already known$|nonce too low: )/);
  await receiptOf(hash);
  const old = await owner.signTransaction({ ...transaction, value: 2n });
  await submit(old, new RegExp(`^nonce too low: next nonce ${transaction.nonce + 1}, tx nonce ${transaction.nonce}$`));

  const error = await refusal(walletFor(owner).sendTransaction({ ...transaction, value: 3n }));
  assert.ok(error.walk((inner) => inner instanceof NonceTooLowError), `viem must see an old nonce in: ${error.message}`);
});

test('oversized data', options, async () => {
  const raw = await owner.signTransaction(await nextTransaction({ data: `0x${'00'.repeat(131_072)}`, gas: 5_000_000n }));
  await submit(raw, /^oversized data: transaction size \d+, limit 131072$/);
});

test('insufficient funds, also as viem knows them', options, async () => {
  const poor = newAccount();
  const raw = await poor.signTransaction({ ...fields, to: owner.address, nonce: 0, value: parseEther('1') });
  const cost = parseEther('1') + fields.gas * fields.maxFeePerGas;
  await submit(raw, new RegExp(`^insufficient funds for gas \\* price \\+ value: balance 0, tx cost ${cost}, overshot ${cost}$`));
  const error = await refusal(walletFor(poor).sendTransaction({ ...fields, to: owner.address, nonce: 0 }));
  assert.ok(error.walk((inner) => inner instanceof InsufficientFundsError), `viem must see missing funds in: ${error.message}`);
});

test('gas below the intrinsic gas', options, async () => {
  const raw = await owner.signTransaction(await nextTransaction({ gas: 20_999n }));
  await submit(raw, /^intrinsic gas too low: gas 20999, minimum needed 21000$/);
  const error = await refusal(walletFor(owner).sendTransaction(await nextTransaction({ gas: 20_999n })));
  assert.ok(error.walk((inner) => inner instanceof IntrinsicGasTooLowError), `viem must see too little gas in: ${error.message}`);
});

test('gas above the block limit', options, async () => {
  const { gasLimit } = await publicClient.getBlock({ blockTag: 'latest' });
  await submit(await owner.signTransaction(await nextTransaction({ gas: gasLimit + 1n })), /^exceeds block gas limit$/);
});

test('init code above the limit of EIP-3860', options, async () => {
  const { to, ...rest } = await nextTransaction({ data: `0x${'00'.repeat(49_153)}`, gas: 5_000_000n });
  await submit(await owner.signTransaction(rest), /^max initcode size exceeded: code size 49153,? limit 49152$/);
});

test('a transaction type that the chain does not take', options, async () => {
  const { r, s, yParity, v, ...unsigned } = parseTransaction(await owner.signTransaction(await nextTransaction()));
  // Type 5 is nobody's yet; the payload is that of a valid type 2.
  const raw = serializeTransaction(unsigned, { r, s, yParity }).replace(/^0x02/, '0x05');
  await submit(raw, /^transaction type not supported/);
});

test('bytes that are no transaction', options, async () => {
  for (const raw of ['0x', '0x02', '0xc0', `0x${'ab'.repeat(40)}`]) {
    const { error } = await rpc('eth_sendRawTransaction', [raw]);
    assert.ok(error && [-32000, -32602].includes(error.code), `${raw} gave ${JSON.stringify(error)}`);
  }
});

test('a refused transaction leaves no trace', options, async () => {
  const transaction = await nextTransaction({ gas: 20_999n });
  await submit(await owner.signTransaction(transaction), /^intrinsic gas too low/);
  const nonce = await publicClient.getTransactionCount({ address: owner.address, blockTag: 'pending' });
  assert.equal(nonce, transaction.nonce);
});

// The bytes of a type 2 transaction without viem's checks.
function encodeUnchecked({ chainId, nonce, maxPriorityFeePerGas, maxFeePerGas, gas, to, value }, { r, s, yParity }) {
  const number = (value) => (value ? numberToHex(value) : '0x');
  const numbers = [chainId, nonce, maxPriorityFeePerGas, maxFeePerGas, gas].map(number);
  const signature = [number(yParity), number(BigInt(r)), number(BigInt(s))];
  return concatHex(['0x02', toRlp([...numbers, to, number(value), '0x', [], ...signature])]);
}

// The error of a promise that must fail.
async function refusal(promise) {
  const error = await promise.then(
    (value) => assert.fail(`must be refused, but gave ${value}`),
    (reason) => reason,
  );
  assert.ok(error instanceof BaseError, error.stack);
  return error;
}
