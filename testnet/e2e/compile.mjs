// Compiles ../contracts/*.sol to ../contracts/*.json (ABI and bytecode), which is committed: the tests need no compiler.
// With --check it writes nothing and fails when a committed file is not what its source compiles to.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import solc from 'solc';

const folder = join(dirname(fileURLToPath(import.meta.url)), '..', 'contracts');
const check = process.argv.includes('--check');
let failed = false;

for (const file of readdirSync(folder).filter((name) => name.endsWith('.sol'))) {
  const name = basename(file, '.sol');
  const input = {
    language: 'Solidity',
    sources: { [file]: { content: readFileSync(join(folder, file), 'utf8') } },
    settings: {
      evmVersion: 'prague',
      optimizer: { enabled: true, runs: 200 },
      // Without the metadata hash the bytecode depends on the code alone, not on comments.
      metadata: { appendCBOR: false, bytecodeHash: 'none' },
      outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object'] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  for (const error of output.errors ?? []) console.error(error.formattedMessage);
  if ((output.errors ?? []).some((error) => error.severity === 'error')) process.exit(1);

  const { abi, evm } = output.contracts[file][name];
  const text = `${JSON.stringify({ compiler: solc.version(), abi, bytecode: `0x${evm.bytecode.object}` }, null, 1)}\n`;
  const target = join(folder, `${name}.json`);
  if (!check) {
    writeFileSync(target, text);
    console.log(`wrote ${target}`);
  } else if (readFileSync(target, 'utf8') !== text) {
    console.error(`${target} is not what ${file} compiles to: npm run compile`);
    failed = true;
  }
}
process.exit(failed ? 1 : 0);
