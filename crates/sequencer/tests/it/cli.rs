//! The command as a user meets it: what it prints where, and with which code it ends.

use std::{
    fs::Permissions,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use cascade_sequencer::exit::ExitCode;
use serde_json::Value;
use tempfile::TempDir;

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
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
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

    /// Runs a node until its first block.
    fn run_node(&self, name: &str, more: &[&str]) -> Output {
        self.node(name).args(["--until-height", "1"]).args(more).output().expect("cascade can be started")
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
    assert_fails(&output, ExitCode::Foreign, &["committees[0]", "1 sequencers"]);
    assert!(!home.exists());
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
    assert_fails(&output, ExitCode::Failed, &["http://127.0.0.1:9"]);
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
    for (flag, key, address) in [
        ("rpc.listen", "rpc.listen", &tcp),
        ("metrics.listen", "metrics.listen", &tcp),
        ("network.listen", "network.listen", &udp),
    ] {
        let output = fixture.run_node("home", &["--set", &format!("{flag}={address}")]);
        assert_fails(&output, ExitCode::PortInUse, &[key, address]);
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
    std::fs::write(&path, text.replace("version = 1", "version = 999")).unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Version, &["999"]);
    std::fs::write(&path, "nonsense").unwrap();
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Corrupt, &[&path]);
}

#[test]
fn a_home_that_is_in_use() {
    let fixture = Fixture::new();
    let mut first =
        fixture.node("home").arg("--exit-with-parent").stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    crate::cluster::wait_for("the first node runs", || {
        Path::new(&fixture.path("home/node.json")).exists().then_some(())
    });
    assert_fails(&fixture.run_node("home", &[]), ExitCode::Locked, &["in use"]);
    // The end of its stdin, which is what a node sees of its parent's end.
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_directory_that_may_not_be_written() {
    let fixture = Fixture::new();
    let home = fixture.path("home");
    std::fs::set_permissions(&home, Permissions::from_mode(0o500)).unwrap();
    let output = fixture.run_node("home", &[]);
    std::fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    if output.status.success() {
        println!("skipped: this user may write everywhere");
        return;
    }
    assert_fails(&output, ExitCode::Permission, &["home"]);
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
        println!("skipped: this user may not mount a file system");
        return;
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
