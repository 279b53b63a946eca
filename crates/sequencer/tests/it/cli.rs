//! The command as a user meets it: what it prints where, and with which code it ends.

use std::{
    fs::Permissions,
    io::Write as _,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use cascade_sequencer::{exit::ExitCode, node::NodeFile};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::wait_for;

/// The command without the caller's settings.
pub fn cascade() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cascade"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CASCADE_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    cascade().args(arguments).output().expect("cascade can be started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is text")
}

/// The one line of JSON that `--json` promises.
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    let text = stdout(output);
    assert_eq!(text.trim_end().lines().count(), 1, "stdout is one line: {text}");
    serde_json::from_str(&text).expect("stdout is JSON")
}

#[track_caller]
fn assert_fails(output: &Output, code: ExitCode, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(i32::from(code.code())), "{text}");
    assert!(output.stdout.is_empty(), "stdout carries results alone: {}", stdout(output));
    assert_says(&text, code, words);
}

/// The message that stderr ends with has these words.
#[track_caller]
fn assert_says(stderr: &str, code: ExitCode, words: &[&str]) {
    let start = if code == ExitCode::Usage { "error: " } else { "cascade: error: " };
    let (_, message) = stderr.rsplit_once(start).unwrap_or_else(|| panic!("no `{start}` in: {stderr}"));
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {stderr}");
    }
}

/// A home of a chain with one sequencer.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let made = fixture.init("home");
        assert!(made.status.success(), "{}", stderr(&made));
        fixture
    }

    fn init(&self, name: &str) -> Output {
        run(&["init", "--data", &self.path(name), "--network", "regtest", "--json"])
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A node that takes free ports.
    fn node(&self, name: &str) -> Command {
        let mut command = cascade();
        let (data, free) = (self.path(name), "127.0.0.1:0");
        command.args(["node", "--data", &data, "--listen", free, "--rpc-listen", free]);
        command
    }

    /// Starts a node that takes free ports, logs into `name.log` and runs until it is dropped.
    fn start_node(&self, name: &str, more: &[&str]) -> Running {
        let mut command = self.node(name);
        command.args(more);
        self.start(name, command)
    }

    fn start(&self, name: &str, mut command: Command) -> Running {
        let log = self.path(&format!("{name}.log"));
        let stderr = std::fs::File::create(&log).expect("a log file");
        let child = command.arg("--exit-with-parent").stdin(Stdio::piped()).stderr(stderr).spawn();
        let child = child.expect("cascade can be started");
        let path = self.path(&format!("{name}/node.json"));
        let file = wait_for("the node runs", || serde_json::from_slice(&std::fs::read(&path).ok()?).ok());
        Running { child, file, log }
    }

    /// Runs a node until its first block.
    fn run_node(&self, name: &str, more: &[&str]) -> Output {
        let until: &[&str] = if more.contains(&"--until-height") { &[] } else { &["--until-height", "1"] };
        self.node(name).args(until).args(more).output().expect("cascade can be started")
    }
}

/// A node that runs.
struct Running {
    child: Child,
    file: NodeFile,
    log: String,
}

impl Running {
    /// Waits until it has logged a warning with these words.
    fn wait_warning(&self, words: &[&str]) {
        wait_for(&format!("the log warns of {words:?}"), || {
            let log = std::fs::read_to_string(&self.log).ok()?;
            log.lines().any(|line| line.contains("WARN") && words.iter().all(|word| line.contains(word))).then_some(())
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log, std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

#[test]
fn version_names_commit_protocol_and_data() {
    let text = stdout(&run(&["--version"]));
    let keys: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(keys, ["cascade", "commit", "protocol", "data"], "{text}");
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("testnet"), "{shell}");
    }
}

#[test]
fn config_shows_values_with_their_origins() {
    let fixture = Fixture::new();
    let home = fixture.path("home");
    let output = cascade()
        .args(["config", "--json", "--data", &home, "--log-level", "debug"])
        .env("CASCADE_RPC_MAX_BATCH", "7")
        .output()
        .unwrap();
    let config = json(&output);
    assert_eq!(config["rpc.max_batch"]["value"], 7);
    assert_eq!(config["rpc.max_batch"]["origin"], "environment CASCADE_RPC_MAX_BATCH");
    assert_eq!(config["log.level"]["origin"], "flag --log-level");
    assert_eq!(config["rpc.max_logs"]["origin"], "default");
    assert_eq!(config["role"]["value"], "sequencer");
    assert_eq!(config["role"]["origin"], format!("{home}/cascade.toml"));
}

#[test]
fn init_refuses_to_overwrite_and_a_sixth_node_joins_by_the_genesis_file() {
    let fixture = Fixture::new();
    let again = fixture.init("home");
    assert_fails(&again, ExitCode::Failed, &["never overwritten"]);
    let genesis = fixture.path("home/genesis.json");
    let (sixth, bootstrap) = (fixture.path("sixth"), "127.0.0.1:9");
    let joined = json(&run(&["init", "--json", "--data", &sixth, "--genesis", &genesis, "--bootstrap", bootstrap]));
    assert_eq!(joined["role"], "full");
    assert!(!Path::new(&fixture.path("sixth/keys/bls.key")).exists(), "a node that does not vote has no voting key");
    let config = json(&run(&["config", "--json", "--data", &sixth]));
    assert_eq!(config["network.bootstrap"]["value"][0], bootstrap);
    assert_eq!(config["network.allow_private"]["value"], true);
}

#[test]
fn init_with_a_genesis_that_breaks_a_rule_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let data = home.display().to_string();
    let output = run(&["init", "--data", &data, "--network", "testnet"]);
    assert_fails(&output, ExitCode::Usage, &["--network testnet", "at least 3", "has 1", "--sequencer", "regtest"]);
    assert!(!home.exists());

    // A rule that the genesis file itself breaks.
    let output = run(&["init", "--data", &data, "--network", "regtest", "--stake", "1"]);
    assert_fails(&output, ExitCode::Foreign, &["committees[0]", "stake 1"]);
    assert!(!home.exists());
}

#[test]
fn init_takes_over_keys_that_were_generated_before() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.path("first"), fixture.path("second"));
    for home in [&first, &second] {
        assert!(run(&["keys", "generate", "--data", home]).status.success());
    }
    let shown = |home: &str| json(&run(&["keys", "show", "--json", "--data", home]));
    let (keys, others) = (shown(&first), shown(&second));
    let entry = fixture.path("second.json");
    let proof = run(&["keys", "proof", "--data", &second, "--stake", "10"]);
    std::fs::write(&entry, stdout(&proof)).unwrap();

    let made = json(&run(&["init", "--data", &first, "--network", "regtest", "--sequencer", &entry, "--json"]));
    assert_eq!((&made["node_id"], &made["role"]), (&keys["node_id"], &Value::from("sequencer")));
    assert_eq!(made["keys_found"].as_array().unwrap().len(), 2, "{made}");
    assert_eq!(shown(&first), keys, "the keys are as they were");
    let genesis: Value = serde_json::from_slice(&std::fs::read(fixture.path("first/genesis.json")).unwrap()).unwrap();
    let members = &genesis["committees"][0]["sequencers"];
    assert_eq!((&members[0]["bls_key"], &members[1]["bls_key"]), (&keys["bls_key"], &others["bls_key"]));

    // Who has an entry in the genesis file joins as a sequencer without being told; a genesis file that is in the home
    // already is left there.
    let genesis = fixture.path("second/genesis.json");
    std::fs::copy(fixture.path("first/genesis.json"), &genesis).unwrap();
    let joined = json(&run(&["init", "--data", &second, "--genesis", &genesis, "--json"]));
    assert_eq!((&joined["node_id"], &joined["role"]), (&others["node_id"], &Value::from("sequencer")));
}

#[test]
fn init_makes_no_new_chain_for_a_key_that_has_signed_and_no_sign_state_for_a_key_without_one() {
    let fixture = Fixture::new();
    assert!(fixture.run_node("home", &[]).status.success());
    for file in ["home/cascade.toml", "home/genesis.json"] {
        std::fs::remove_file(fixture.path(file)).unwrap();
    }
    assert_fails(&fixture.init("home"), ExitCode::SignState, &["has signed", "its own voting key"]);
    let state = fixture.path("home/keys/bls.sign-state");
    std::fs::remove_file(&state).unwrap();
    assert_fails(&fixture.init("home"), ExitCode::SignState, &[&state]);
    assert!(!Path::new(&state).exists(), "a sign-state is never made up");
}

#[test]
fn a_cluster_made_by_hand_as_the_operating_guide_says_finalizes() {
    let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
    // Hosts are loopback addresses of this process's own, so that the guide's fixed port is free on each.
    let pid = std::process::id();
    let host = |n: usize| format!("127.{}.{}.{n}:30330", 1 + pid % 250, 1 + pid / 250 % 250);
    let names = ["1", "2", "3", "4"].map(str::to_owned);
    for name in &names {
        assert!(run(&["keys", "generate", "--data", &fixture.path(name)]).status.success());
        let entry = run(&["keys", "proof", "--data", &fixture.path(name), "--stake", "100"]);
        std::fs::write(fixture.path(&format!("entry-{name}.json")), stdout(&entry)).unwrap();
    }
    let entries: Vec<String> = (2..=4).map(|n| fixture.path(&format!("entry-{n}.json"))).collect();
    let init = |n: usize, bootstrap: &[usize], more: &[&str]| {
        let (data, own) = (fixture.path(&names[n - 1]), host(n));
        let bootstrap: Vec<String> = bootstrap.iter().map(|n| host(*n)).collect();
        let (bootstrap, private) = (bootstrap.join(","), "network.allow_private=true");
        let start = ["init", "--json", "--data", &data, "--listen", &own, "--bootstrap", &bootstrap, "--set", private];
        json(&run(&[&start[..], &["--rpc-listen", "127.0.0.1:0"], more].concat()))
    };
    let mut founding = vec!["--network", "testnet", "--stake", "100"];
    entries.iter().for_each(|entry| founding.extend(["--sequencer", entry]));
    let first = init(1, &[2, 3], &founding);
    let genesis = fixture.path("1/genesis.json");
    for n in 2..=4 {
        let joined = init(n, &[1, 2], &["--genesis", &genesis]);
        assert_eq!(joined["genesis_hash"], first["genesis_hash"]);
        assert_eq!(joined["role"], "sequencer", "its key is in the genesis file");
    }
    let nodes = names.each_ref().map(|name| {
        let mut command = cascade();
        command.args(["node", "--data", &fixture.path(name)]);
        fixture.start(name, command)
    });
    for node in &nodes {
        wait_for("every node has three peers, hears all four, and sees a block become final", || {
            let output = run(&["status", "--json", "--rpc", &node.file.rpc_http]);
            let health = serde_json::from_slice::<Value>(&output.stdout).ok()?["health"].take();
            let (peers, heard, height) = (&health["peers"], &health["seatsHeard"], health["height"].as_u64()?);
            (output.status.success() && peers == 3 && heard == 4 && height >= 1).then_some(())
        });
    }
    let [first, _second, third, fourth] = nodes;
    drop((third, fourth));
    let output = wait_for("status says that two of four are no quorum", || {
        let output = run(&["status", "--rpc", &first.file.rpc_http]);
        // Until the silence is noticed, it says that no block becomes final.
        let silent = output.status.code() == Some(i32::from(ExitCode::Unhealthy.code()));
        (silent && stderr(&output).contains("no quorum")).then_some(output)
    });
    assert_says(&stderr(&output), ExitCode::Unhealthy, &["not healthy", "too few sequencers", "down or cut off"]);
}

#[test]
fn variables_that_mean_nothing_are_not_passed_over_silently() {
    let fixture = Fixture::new();
    let home = fixture.path("home");
    let with = |name: &str| cascade().args(["config", "--data", &home]).env(name, "1").output().unwrap();
    assert_fails(&with("CASCADE_RPC_MAX_BACH"), ExitCode::Usage, &["CASCADE_RPC_MAX_BACH", "CASCADE_RPC_MAX_BATCH is"]);
    let strange = with("CASCADE_SERVICE_HOST");
    assert!(strange.status.success());
    assert!(
        stderr(&strange).contains("warning: the environment variable CASCADE_SERVICE_HOST"),
        "{}",
        stderr(&strange)
    );
    let homeless = cascade().arg("config").env_remove("HOME").output().unwrap();
    assert_fails(&homeless, ExitCode::Usage, &["HOME", "--data"]);
}

#[test]
fn a_node_warns_of_bootstrap_nodes_that_are_silent_or_of_another_chain() {
    let fixture = Fixture::new();
    assert!(fixture.init("other").status.success());
    let other = fixture.start_node("other", &[]);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (other, silent) = (other.file.network.to_string(), silent.local_addr().unwrap().to_string());
    let node = fixture.start_node("home", &["--bootstrap", &other, "--bootstrap", &silent]);
    node.wait_warning(&["network.bootstrap", &other, "of another chain", "genesis"]);
    node.wait_warning(&["network.bootstrap", &silent, "does not answer", "UDP port"]);
}

#[test]
fn a_node_whose_key_has_no_seat_warns_of_it_and_status_says_that_it_is_alone() {
    let fixture = Fixture::new();
    let genesis = fixture.path("home/genesis.json");
    let guest = fixture.path("guest");
    assert!(run(&["init", "--data", &guest, "--genesis", &genesis, "--role", "sequencer"]).status.success());
    let node = fixture.start_node("guest", &[]);
    node.wait_warning(&["in no committee of the genesis file", "--role full"]);
    let output = run(&["status", "--rpc", &node.file.rpc_http]);
    assert_eq!(output.status.code(), Some(i32::from(ExitCode::NoPeers.code())), "{output:?}");
    assert_says(&stderr(&output), ExitCode::NoPeers, &["no peers", "network.bootstrap"]);
    assert!(stdout(&output).contains("peers      none"), "{}", stdout(&output));

    // A sequencer that is a quorum by itself needs no peers.
    let alone = fixture.start_node("home", &[]);
    wait_for("the only sequencer is healthy", || {
        run(&["status", "--rpc", &alone.file.rpc_http]).status.success().then_some(())
    });
}

#[test]
fn send_says_what_is_wrong_and_what_to_do() {
    let fixture = Fixture::new();
    let node = fixture.start_node("home", &[]);
    let rpc = node.file.rpc_http.as_str();
    let to = "0x000000000000000000000000000000000000dEaD";
    let send = |more: &[&str]| run(&[&["send", "--rpc", rpc, "--to", to], more].concat());
    let key = fixture.path("account.key");
    assert_fails(&send(&["--key-file", &key]), ExitCode::KeyMissing, &["--key-file", &key, "private key"]);
    std::fs::write(&key, "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80\n").unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    assert_fails(&send(&["--key-file", &key]), ExitCode::Permission, &[&key, "chmod 600"]);
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();

    let output = send(&["--key-file", &key, "--value", "10001"]);
    assert_fails(&output, ExitCode::Failed, &["has 10000 CAS", "would need 10001 CAS", "fund"]);
    let output = send(&["--key-file", &key, "--value", "10000"]);
    assert_fails(&output, ExitCode::Failed, &["would need 10000 CAS and up to 0.0", "for gas"]);

    let sent = send(&["--key-file", &key, "--value", "1"]);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let output = send(&["--key-file", &key, "--value", "1", "--nonce", "0"]);
    assert_fails(&output, ExitCode::Failed, &["nonce too low", "leave --nonce away"]);
    let output = send(&["--key-file", &key, "--value", "1", "--valid-for", "5"]);
    assert_fails(
        &output,
        ExitCode::Usage,
        &["--valid-for", "cascade deposit", "on a chain in the clear nothing is sealed"],
    );
    let output = send(&["--key-file", &key, "--value", "1", "--nonce", "4", "--timeout", "1"]);
    assert_fails(&output, ExitCode::Failed, &["not final after 1 s", "gap"]);
    assert!(stderr(&output).contains("until nonces 1 to 3 arrived"), "{}", stderr(&output));

    let output = run(&["send", "--rpc", "http://127.0.0.1:9", "--account", "0", "--to", to]);
    assert_fails(&output, ExitCode::Unreachable, &["http://127.0.0.1:9", "see that a node runs", "--rpc"]);
    let output = run(&["send", "--rpc", "127.0.0.1", "--account", "0", "--to", to]);
    assert_fails(&output, ExitCode::Usage, &["http://HOST:PORT"]);
}

#[test]
fn keys_are_shown_proved_and_imported() {
    let fixture = Fixture::new();
    let (home, new) = (fixture.path("home"), fixture.path("new"));
    let shown = json(&run(&["keys", "show", "--json", "--data", &home]));
    let proof = json(&run(&["keys", "proof", "--data", &home, "--stake", "50", "--hat", "80"]));
    assert_eq!(proof["node"], shown["node_id"]);
    assert_eq!((&proof["bls_key"], &proof["stake"]), (&shown["bls_key"], &Value::from(50)));

    let bls = fixture.path("home/keys/bls.key");
    let import = ["keys", "import", "bls", "--from", &bls, "--data", &new, "--json"];
    assert_fails(&run(&import), ExitCode::Usage, &["sign-state", "--never-signed"]);
    let imported = json(&run(&[&import[..], &["--never-signed"]].concat()));
    assert_eq!(imported["public"], shown["bls_key"]);
    assert_fails(&run(&["keys", "generate", "--data", &home]), ExitCode::Failed, &["never overwritten"]);
}

#[test]
fn wrong_usage_is_said_so() {
    assert_fails(&run(&["nodes"]), ExitCode::Usage, &["nodes"]);
    let output = run(&["node", "--set", "rpc.max_bach=3"]);
    assert_fails(&output, ExitCode::Usage, &["rpc.max_bach", "flag --set", "rpc.max_batch"]);
    let output = run(&["send", "--account", "0", "--to", "0xdead", "--value", "1"]);
    assert_fails(&output, ExitCode::Usage, &["--to"]);
    let output = run(&["status", "--rpc", "http://127.0.0.1:9"]);
    assert_fails(&output, ExitCode::Unreachable, &["http://127.0.0.1:9"]);
}

#[test]
fn a_node_runs_until_the_height_asked_for_and_starts_again() {
    let fixture = Fixture::new();
    for height in ["2", "4"] {
        let output = fixture.node("home").args(["--until-height", height]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    assert!(!Path::new(&fixture.path("home/node.json")).exists(), "a node that stopped leaves no address behind");
}

#[test]
fn ports_in_use() {
    let fixture = Fixture::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp, udp) = (tcp.local_addr().unwrap().to_string(), udp.local_addr().unwrap().to_string());
    for (key, address, remedy) in [
        ("rpc.listen", &tcp, ["TCP", "--rpc-listen"]),
        ("metrics.listen", &tcp, ["TCP", "--metrics-listen"]),
        ("network.listen", &udp, ["UDP", "--listen"]),
    ] {
        let output = fixture.run_node("home", &["--set", &format!("{key}={address}")]);
        assert_fails(&output, ExitCode::PortInUse, &[key, address, "another process", remedy[0], remedy[1]]);
    }
}

#[test]
fn a_key_that_others_can_read() {
    let fixture = Fixture::new();
    for key in ["home/keys/node.key", "home/keys/bls.key"] {
        let path = fixture.path(key);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_fails(&fixture.run_node("home", &[]), ExitCode::Permission, &[&path, "chmod 600"]);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_key_that_is_missing_or_damaged() {
    let fixture = Fixture::new();
    let path = fixture.path("home/keys/node.key");
    std::fs::write(&path, "no key").unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Corrupt, &[&path]);
    std::fs::remove_file(&path).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::KeyMissing, &[&path]);
}

#[test]
fn a_sign_state_that_is_missing() {
    let fixture = Fixture::new();
    assert!(fixture.run_node("home", &[]).status.success());
    let path = fixture.path("home/keys/bls.sign-state");
    std::fs::remove_file(&path).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::SignState, &[&path, "contradict"]);
    assert!(!Path::new(&path).exists(), "a sign-state is never made up");
}

#[test]
fn a_sign_state_that_is_damaged() {
    let fixture = Fixture::new();
    assert!(fixture.run_node("home", &[]).status.success());
    let path = fixture.path("home/keys/bls.sign-state");
    let copy = std::fs::read(&path).unwrap();
    for damaged in [copy[..100].to_vec(), vec![0xee; copy.len()]] {
        std::fs::write(&path, damaged).unwrap();
        let output = fixture.run_node("home", &[]);
        assert_fails(
            &output,
            ExitCode::SignState,
            &[&path, "keep the data directory", "newest copy", "retire the key"],
        );
        assert!(!stderr(&output).contains("sync again"), "that is the remedy for chain data: {}", stderr(&output));
    }
    std::fs::write(&path, copy).unwrap();
    let output = fixture.run_node("home", &["--until-height", "3"]);
    assert!(output.status.success(), "with the copy it goes on: {}", stderr(&output));
}

#[test]
fn the_chain_data_of_another_chain() {
    let fixture = Fixture::new();
    assert!(fixture.init("other").status.success());
    assert!(fixture.run_node("home", &[]).status.success());
    let genesis = fixture.path("other/genesis.json");
    assert_fails(&fixture.run_node("home", &["--genesis", &genesis]), ExitCode::Foreign, &["genesis", "home/chain"]);
}

#[test]
fn a_genesis_that_is_missing_damaged_or_false() {
    let fixture = Fixture::new();
    let path = fixture.path("home/genesis.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut genesis: Value = serde_json::from_str(&text).unwrap();

    // Another key with this proof of possession.
    let other = fixture.init("other");
    assert!(other.status.success());
    let proof = json(&run(&["keys", "proof", "--data", &fixture.path("other"), "--stake", "10"]));
    genesis["committees"][0]["sequencers"][0]["bls_key"] = proof["bls_key"].clone();
    std::fs::write(&path, genesis.to_string()).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Foreign, &[&path, "possession"]);

    // The accounts of the public mnemonic on another network than regtest.
    let mut genesis: Value = serde_json::from_str(&text).unwrap();
    genesis["params"]["network"] = "testnet".into();
    genesis["params"]["min_sequencers"] = 1.into();
    std::fs::write(&path, genesis.to_string()).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Foreign, &[&path, "public development mnemonic"]);

    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Foreign, &[&path]);
    std::fs::remove_file(&path).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Foreign, &[&path, "cascade init"]);
}

#[test]
fn what_harms_others_is_refused_outside_regtest() {
    let fixture = Fixture::new();
    let path = fixture.path("home/genesis.json");
    let mut genesis: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    genesis["params"]["network"] = "testnet".into();
    genesis["params"]["min_sequencers"] = 1.into();
    genesis["alloc"] = Value::Object(serde_json::Map::new());
    std::fs::write(&path, genesis.to_string()).unwrap();
    let favour = "pool.favour=0x0707070707070707070707070707070707070707";
    for set in [favour, "shares.withhold=true", "squares.withhold=all", "squares.misencode=true"] {
        let output = fixture.run_node("home", &["--set", set]);
        assert_fails(&output, ExitCode::Usage, &["for tests on regtest"]);
    }
    assert!(fixture.run_node("home", &[]).status.success(), "and nothing else is wrong");
}

#[test]
fn a_directory_that_holds_something_else() {
    let fixture = Fixture::new();
    let chain = fixture.path("home/chain");
    std::fs::create_dir(&chain).unwrap();
    std::fs::write(Path::new(&chain).join("thesis.txt"), "work").unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Foreign, &["thesis.txt"]);
}

#[test]
fn data_of_another_version() {
    let fixture = Fixture::new();
    assert!(fixture.run_node("home", &[]).status.success());
    let path = fixture.path("home/chain/VERSION");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("version = ", "version = 999")).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Version, &["999"]);
    std::fs::write(&path, "nonsense").unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Corrupt, &[&path]);
}

#[test]
fn a_home_that_is_in_use() {
    let fixture = Fixture::new();
    let mut first = fixture.start_node("home", &[]);
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Locked, &["in use"]);
    // The end of its stdin, which is what a node sees of its parent's end.
    drop(first.child.stdin.take());
    assert!(first.child.wait().unwrap().success());
}

#[test]
fn a_directory_that_may_not_be_written() {
    let fixture = Fixture::new();
    let home = fixture.path("home");
    std::fs::set_permissions(&home, Permissions::from_mode(0o500)).unwrap();
    let mut node = fixture.node("home");
    node.args(["--until-height", "1"]);
    if std::fs::create_dir(Path::new(&home).join("probe")).is_ok() {
        // Root may write everywhere, unless it gives up the capability to.
        let give_up = "-dac_override,-dac_read_search";
        let mut limited = Command::new("setpriv");
        limited.args(["--bounding-set", give_up, "--inh-caps", give_up]).arg(node.get_program()).args(node.get_args());
        for (name, value) in node.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited.stdin(Stdio::null());
        node = limited;
    }
    let output = match node.output() {
        Ok(output) => output,
        Err(error) => return skip(&format!("this user may write everywhere, and setpriv does not run: {error}")),
    };
    std::fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    assert_fails(&output, ExitCode::Permission, &["home"]);
}

/// With CASCADE_NEED_ROOT, what needs root or its tools must run.
fn skip(reason: &str) {
    // Not println, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
    assert!(std::env::var_os("CASCADE_NEED_ROOT").is_none(), "it was asked for, but {reason}");
}

/// A file system of so many MiB, mounted while it lives; none if this user may not mount.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn new(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().ok()?;
        let options = format!("size={mib}m,mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "cascade-test"]).arg(dir.path()).stderr(Stdio::null());
        mount.status().ok().filter(|status| status.success()).map(|_| Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

#[test]
fn a_full_disk() {
    let Some(disk) = SmallDisk::new(8) else {
        return skip("this user may not mount a file system");
    };
    let fixture = Fixture::new();
    let data = disk.dir.path().join("home");
    let copied = Command::new("cp").arg("-r").arg(fixture.path("home")).arg(&data).status().unwrap();
    assert!(copied.success());
    // Everything but a little is taken; what is left is less than a node writes at its start.
    let filler = std::fs::File::create(disk.dir.path().join("filler")).unwrap();
    let mut at = 0;
    while std::os::unix::fs::FileExt::write_at(&filler, &[1; 4096], at).is_ok_and(|n| n > 0) {
        at += 4096;
    }
    filler.set_len(at.saturating_sub(16 << 10)).unwrap();
    let data = data.display().to_string();
    let free = "127.0.0.1:0";
    let output = run(&["node", "--data", &data, "--listen", free, "--rpc-listen", free, "--until-height", "1"]);
    assert_fails(&output, ExitCode::DiskFull, &["full"]);
}

#[test]
fn a_clock_that_is_off() {
    // A block from the future stands for a clock that was set back: the genesis is the newest block.
    let fixture = Fixture::new();
    let path = fixture.path("home/genesis.json");
    let mut genesis: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let now = genesis["timestamp"].as_u64().unwrap();
    genesis["timestamp"] = (now + 24 * 3_600_000).into();
    std::fs::write(&path, genesis.to_string()).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Clock, &["clock", "NTP"]);
}

#[test]
fn the_command_contains_no_planted_bug() {
    // The simulator's tests plant bugs through a type parameter; a node's core is built without. A bug's words are in a
    // binary only if something in it names a bug, as this test does.
    let words = cascade_consensus::Bug::QuorumTooLow.words().as_bytes();
    let mark = &words[..words.iter().position(|b| *b == b':').unwrap()];
    let names_one = |path: &Path| std::fs::read(path).unwrap().windows(mark.len()).any(|window| window == mark);
    assert!(names_one(&std::env::current_exe().unwrap()));
    assert!(!names_one(Path::new(env!("CARGO_BIN_EXE_cascade"))));
    let help = run(&["sim", "--help"]);
    assert!(help.status.success() && !stdout(&help).contains("--bug"));
}
