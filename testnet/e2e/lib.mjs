// What the end-to-end tests share: the cluster's URLs and accounts, viem clients, raw JSON-RPC.
//
// CASCADE_RPC_HTTP, CASCADE_RPC_WS: one node's URLs. CASCADE_TESTNET: the testnet.json of its cluster, for the accounts.
import { strict as assert } from 'node:assert';
import { readFileSync } from 'node:fs';
import { createPublicClient, createWalletClient, defineChain, http, parseEther } from 'viem';
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts';
import { rpc as post } from '../testnet.mjs';

function need(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set; start these tests with testnet/e2e/run`);
  return value;
}

export const httpUrl = need('CASCADE_RPC_HTTP');
export const wsUrl = need('CASCADE_RPC_WS');
export const testnet = JSON.parse(readFileSync(need('CASCADE_TESTNET'), 'utf8'));
// Behind the proxy of an encrypted chain. Two things differ there, and nothing else: fees are the payer's, and a transaction
// that is submitted again gets its hash again.
export const encrypted = testnet.proxy !== undefined;
export const token = JSON.parse(readFileSync(new URL('../contracts/TestToken.json', import.meta.url), 'utf8'));

export const chain = defineChain({
  id: testnet.chain_id,
  name: 'Cascade regtest',
  nativeCurrency: { name: 'CAS', symbol: 'CAS', decimals: 18 },
  rpcUrls: { default: { http: [httpUrl], webSocket: [wsUrl] } },
});

// cacheTime 0: viem would otherwise answer getBlockNumber from its own memory.
const options = { chain, pollingInterval: 50, cacheTime: 0 };
export const publicClient = createPublicClient({ ...options, transport: http(httpUrl) });
export const walletFor = (account) => createWalletClient({ ...options, account, transport: http(httpUrl) });

// Each test file has a funded account of its own, so that files do not disturb each other's nonces.
const OWNERS = ['transfer', 'erc20', 'subscribe', 'errors', 'ethers', 'cast', 'readme'];
export function keyOf(owner) {
  const index = OWNERS.indexOf(owner);
  assert.ok(index >= 0 && index < testnet.accounts.length, `no funded account for ${owner}`);
  return testnet.accounts[index].private_key;
}
export const accountOf = (owner) => privateKeyToAccount(keyOf(owner));
export const newAccount = () => privateKeyToAccount(generatePrivateKey());

export const rpc = (method, params) => post(httpUrl, method, params);

// The result of a call that must succeed.
export async function rpcOk(method, params) {
  const answer = await rpc(method, params);
  assert.equal(answer.error, undefined, `${method}: ${JSON.stringify(answer.error)}`);
  return answer.result;
}

// The error of a call that must fail, with the code and a message that matches.
export async function rpcFails(method, params, code, message) {
  const answer = await rpc(method, params);
  assert.ok(answer.error, `${method} must fail, but gave ${JSON.stringify(answer.result)}`);
  assert.deepEqual(
    { code: answer.error.code, matches: message.test(answer.error.message) },
    { code, matches: true },
    `${method} gave ${answer.error.code} "${answer.error.message}", expected ${code} ${message}`,
  );
  return answer.error;
}

// What a transaction has cost its sender beside its value.
export const feeOf = (receipt) => (encrypted ? 0n : receipt.gasUsed * receipt.effectiveGasPrice);

export async function receiptOf(hash) {
  return publicClient.waitForTransactionReceipt({ hash, timeout: 30_000 });
}

// A new account with money of its own.
export async function fundedAccount(owner, amount = parseEther('1')) {
  const account = newAccount();
  const hash = await walletFor(accountOf(owner)).sendTransaction({ to: account.address, value: amount });
  assert.equal((await receiptOf(hash)).status, 'success');
  return account;
}

// The address of a new TestToken whose whole supply `account` owns, with its deployment's receipt.
export async function deployToken(account, supply = parseEther('1000')) {
  const hash = await walletFor(account).deployContract({ abi: token.abi, bytecode: token.bytecode, args: ['Test Token', 'TST', supply] });
  const receipt = await receiptOf(hash);
  assert.equal(receipt.status, 'success');
  return receipt;
}

// A promise with its resolve and reject, which fails by itself after `seconds`.
export function deferred(what, seconds = 30) {
  let resolve;
  let reject;
  const promise = new Promise((yes, no) => {
    resolve = yes;
    reject = no;
  });
  const timer = setTimeout(() => reject(new Error(`not within ${seconds} s: ${what}`)), seconds * 1000);
  return { promise: promise.finally(() => clearTimeout(timer)), resolve, reject };
}
