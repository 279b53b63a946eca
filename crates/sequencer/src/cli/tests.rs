use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_a_description_and_an_example() {
    fn check(command: &clap::Command) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()) {
            let name = sub.get_name();
            assert!(sub.get_about().is_some(), "{name} has no description");
            let after = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example") && after.contains("cascade "), "{name} has no example");
            check(sub);
        }
    }
    check(&Cli::command());
}

#[test]
fn command_lines_of_the_documents_parse() {
    for line in [
        "cascade testnet",
        "cascade testnet --nodes 4 --blocks 10 --data d --json",
        "cascade init --data d --genesis g.json --bootstrap 127.0.0.1:1",
        "cascade node --data d --until-height 5",
        "cascade node --bootstrap a:1 --bootstrap b:2 --set rpc.max_batch=3 --role full",
        "cascade keys generate --data d",
        "cascade keys import bls --from - --never-signed",
        "cascade keys proof --stake 10",
        "cascade status --rpc http://127.0.0.1:1 --watch",
        "cascade send --account 0 --to 0x000000000000000000000000000000000000dEaD --value 0.5",
        "cascade send --raw 0x02",
        "cascade deposit --account 3 --value 5 --payer-key-file p --json",
        "cascade proxy --rpc http://127.0.0.1:1 --listen 127.0.0.1:8547 --data d --payer-key-file p --json",
        "cascade proxy --gas-classes 21000,500000",
        "cascade send --account 0 --to 0x000000000000000000000000000000000000dEaD --gas-classes none",
        "cascade withdraw --key-file p --to 0x000000000000000000000000000000000000dEaD",
        "cascade withdraw --account 3 --value 1 --to 0x000000000000000000000000000000000000dEaD --json",
        "cascade config --json",
        "cascade completions bash",
        "cascade sim --nodes 4 --seeds 0..10 --faults all --json",
        "cascade bench load --nodes 4 --rate 1000 --secs 60 --kind transfer --json",
        "cascade bench load --kind opaque --size 512",
        "cascade light --from-testnet d --samples 16 --heights 50 --json",
        "cascade light --genesis g.json --peer http://127.0.0.1:1 --data d --checkpoint 5:0x0000000000000000000000000000000000000000000000000000000000000001:0x0000000000000000000000000000000000000000000000000000000000000002",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    for line in [
        "cascade",
        "cascade deposit --value 1",
        "cascade proxy --payer-key-file p --public-payer",
        "cascade proxy --gas-classes 20000",
        "cascade withdraw --account 3",
        "cascade withdraw --to 0x000000000000000000000000000000000000dEaD",
        "cascade nodes",
        "cascade light",
        "cascade light --from-testnet d --genesis g.json",
        "cascade light --genesis g.json --peer http://127.0.0.1:1 --checkpoint 5:0x01",
        "cascade send --to 0x000000000000000000000000000000000000dEaD",
        "cascade send --account 0 --raw 0x02",
        "cascade send --account 0",
        "cascade sim --seeds 5..5",
        "cascade bench load --nodes 1",
        "cascade node --set rpc.max_batch",
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.use_stderr(), "{line}");
        assert_eq!(run(line.split_whitespace().map(OsString::from)), ExitCode::Usage, "{line}");
    }
}

#[test]
fn flags_of_lists_add_up() {
    let cli = parse("cascade node --bootstrap a:1 --bootstrap b:2,c:3").unwrap();
    let Command::Node(args) = cli.command else { panic!("it is the node command") };
    let config = args.resolve_for_tests();
    assert_eq!(config.network.bootstrap, ["a:1", "b:2", "c:3"]);
}
