// A smoke test with ethers v6: what it asks for differs from viem in many small ways.
import { strict as assert } from 'node:assert';
import { after, test } from 'node:test';
import { Contract, ContractFactory, JsonRpcProvider, Wallet, WebSocketProvider, isError, parseEther } from 'ethers';
import { deferred, httpUrl, keyOf, testnet, token, wsUrl } from '../lib.mjs';

const options = { timeout: 60_000 };
const provider = new JsonRpcProvider(httpUrl, undefined, { cacheTimeout: -1, polling: true });
provider.pollingInterval = 100;
const signer = new Wallet(keyOf('ethers'), provider);

after(() => provider.destroy());

test('network, fees and a transfer', options, async () => {
  assert.equal((await provider.getNetwork()).chainId, BigInt(testnet.chain_id));
  const fees = await provider.getFeeData();
  assert.ok(fees.maxFeePerGas > 0n && fees.gasPrice > 0n);
  const to = Wallet.createRandom().address;
  const sent = await signer.sendTransaction({ to, value: parseEther('0.1') });
  const receipt = await sent.wait(1, 30_000);
  assert.equal(receipt.status, 1);
  assert.equal(receipt.hash, sent.hash);
  assert.equal(await provider.getBalance(to), parseEther('0.1'));
  assert.equal(receipt.fee, receipt.gasUsed * receipt.gasPrice);
});

test('deploy, call, event query and revert reason', options, async () => {
  const contract = await new ContractFactory(token.abi, token.bytecode, signer).deploy('Ethers', 'ETH', 100n);
  const instance = await contract.waitForDeployment();
  assert.equal(await instance.symbol(), 'ETH');
  const to = Wallet.createRandom().address;
  const receipt = await (await instance.transfer(to, 3n)).wait(1, 30_000);
  assert.equal(await instance.balanceOf(to), 3n);
  const events = await instance.queryFilter(instance.filters.Transfer(null, to), receipt.blockNumber, receipt.blockNumber);
  assert.deepEqual(events.map((event) => event.args.value), [3n]);
  await assert.rejects(instance.transferFrom(to, signer.address, 1n), (error) => {
    assert.ok(isError(error, 'CALL_EXCEPTION'));
    assert.equal(error.reason, 'TestToken: allowance too low');
    return true;
  });
});

test('refusals have the codes of ethers', options, async () => {
  const poor = Wallet.createRandom(provider);
  const fields = { to: signer.address, value: 1n, gasLimit: 21_000n, nonce: 0, maxFeePerGas: 10n ** 9n, maxPriorityFeePerGas: 1n };
  await assert.rejects(poor.sendTransaction(fields), (error) => isError(error, 'INSUFFICIENT_FUNDS'));
  await assert.rejects(signer.sendTransaction(fields), (error) => isError(error, 'NONCE_EXPIRED'));
});

test('a WebSocket provider sees new blocks and events', options, async () => {
  const socket = new WebSocketProvider(wsUrl);
  try {
    const block = deferred('a block');
    await socket.on('block', block.resolve);
    assert.ok((await block.promise) >= 0);

    const contract = await (await new ContractFactory(token.abi, token.bytecode, signer).deploy('E', 'E', 9n)).waitForDeployment();
    const listener = new Contract(await contract.getAddress(), token.abi, socket);
    const event = deferred('a Transfer event');
    await listener.on('Transfer', (from, to, value) => event.resolve({ from, to, value }));
    const to = Wallet.createRandom().address;
    await (await contract.transfer(to, 4n)).wait(1, 30_000);
    assert.deepEqual(await event.promise, { from: signer.address, to, value: 4n });
  } finally {
    await socket.destroy();
  }
});
