//! Real programs through the mesh: a web server and its clients, bulk, a protocol whose server speaks first, a database.
//!
//! Method: the server runs inside pods of both nodes, its client inside another pod, as a person would start them. What is
//! not installed is skipped; `cargo xtask setup` installs it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use weft_testkit::leak::canary_payload;
use weft_testkit::load;
use weft_testkit::netns::Netns;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::TestLab;

use super::{addresses, three_pods};

/// Ports inside namespaces of our own are free.
const PORT: u16 = 7777;
/// Seconds after which a client is ended, ten times what the slowest takes.
const CLIENT_LIMIT: &str = "60";
/// Size of a large file or value.
const LARGE: usize = 5_000_000;
/// Bytes that iperf3 sends each way.
const BULK: &str = "100M";
/// How many of them must have been counted at the other end.
const BULK_COUNTED: u64 = 10_000_000;

/// A server; dropping it ends it.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a server inside pods b and c and runs a client inside pod a, against every address of both.
fn through_the_mesh(
    programs: &[&str],
    folder: &TempDir,
    server: &[&str],
    client: impl Fn(&Netns, SocketAddr),
) {
    if !weft_tests::is_root() || !programs.iter().all(|name| weft_tests::has_program(name)) {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        let _server = start(&lab, pod, folder, server);
        for address in addresses(&lab, pod) {
            println!("{} in {pod} at {address}", server[0]);
            client(&lab.netns("a"), SocketAddr::new(address, PORT));
        }
    }
}

fn start(lab: &TestLab, pod: &str, folder: &TempDir, words: &[&str]) -> Program {
    let netns = lab.netns(pod);
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let spawned = netns.enter(|| {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command.spawn()?)
    });
    let mut program = Program(spawned.unwrap());
    until("the server to listen", LONG, || {
        if let Some(status) = program.0.try_wait()? {
            let log = std::fs::read_to_string(folder.path().join("log"))?;
            panic!("{} ended with {status}: {log}", words[0]);
        }
        for address in addresses(lab, pod) {
            load::connect(&netns, SocketAddr::new(address, PORT))?;
        }
        Ok(())
    })
    .unwrap();
    program
}

/// Runs a client to its end with something on its standard input; what it says on standard output.
fn run(netns: &Netns, folder: &Path, words: &[&str], input: &[u8]) -> Vec<u8> {
    let output = netns.enter(|| {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "1", CLIENT_LIMIT])
            .args(words)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            scope.spawn(move || drop(stdin.write_all(input)));
            Ok(child.wait_with_output()?)
        })
    });
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{words:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn curl_and_wrk_reach_nginx() {
    let folder = TempDir::new().unwrap();
    let page = canary_payload(LARGE);
    std::fs::write(folder.path().join("page"), &page).unwrap();
    let config = format!(
        "daemon off; master_process off; pid {0}/pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
  uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
  server {{ listen {PORT}; listen [::]:{PORT}; root {0}; location = /small {{ return 200 'hello'; }} }}
}}
",
        folder.path().display()
    );
    std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let path = folder.path().join("nginx.conf");
    let server = ["nginx", "-c", path.to_str().unwrap()];
    through_the_mesh(&["nginx", "curl", "wrk"], &folder, &server, |netns, to| {
        let url = format!("http://{to}/page");
        let curl = ["curl", "--silent", "--show-error", "--fail"];
        // Twice over one connection.
        let words = [&curl[..], &[&url, &url]].concat();
        assert!(run(netns, folder.path(), &words, b"") == page.repeat(2));
        let url = format!("http://{to}/small");
        for header in ["Connection: keep-alive", "Connection: close"] {
            let words = ["wrk", "-t1", "-c20", "-d1s", "-H", header, &url];
            let said = text(run(netns, folder.path(), &words, b""));
            assert!(said.contains("requests in"), "{said}");
            for bad in ["Socket errors", "Non-2xx"] {
                assert!(!said.contains(bad), "{header}: {said}");
            }
        }
    });
}

#[test]
fn iperf3_sends_and_receives() {
    let folder = TempDir::new().unwrap();
    let port = PORT.to_string();
    let server = ["iperf3", "-s", "-p", &port];
    through_the_mesh(&["iperf3"], &folder, &server, |netns, to| {
        let host = to.ip().to_string();
        for direction in [&[][..], &["-R"], &["-P", "4"]] {
            let words = ["iperf3", "-c", &host, "-p", &port, "-n", BULK, "-J"];
            let words = [&words[..], direction].concat();
            // Its server serves one client at a time and listens anew after each: one that comes too early is told that it
            // is busy, or is reset out of the queue of the old listener, before anything has begun.
            let bytes = until("the server to be free", LONG, || {
                let said = text(run(netns, folder.path(), &words, b""));
                let json: serde_json::Value = serde_json::from_str(&said)?;
                let begun = json["start"]["connected"].as_array();
                anyhow::ensure!(begun.is_some_and(|all| !all.is_empty()), "{said}");
                let bytes = json["end"]["sum_received"]["bytes"].as_u64();
                Ok(bytes.unwrap_or_else(|| panic!("{direction:?}: {said}")))
            })
            .unwrap();
            // What is still on its way when the sender is done is not counted: several buffers of each connection.
            assert!(bytes >= BULK_COUNTED, "{direction:?}: {bytes} arrived");
        }
    });
}

/// The folder that sshd wants to be there.
const SSHD_FOLDER: &str = "/run/sshd";

#[test]
fn ssh_runs_a_command_on_a_server_that_speaks_first() {
    let programs = ["/usr/sbin/sshd", "ssh", "ssh-keygen"];
    if !weft_tests::is_root() || !programs.iter().all(|name| weft_tests::has_program(name)) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for key in ["host", "user"] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)])
            .status();
        assert!(made.unwrap().success());
    }
    let config = format!(
        "Port {PORT}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM yes\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\n",
        at("host"),
        at("user.pub")
    );
    std::fs::write(folder.path().join("config"), config).unwrap();
    std::fs::create_dir_all(SSHD_FOLDER).unwrap();
    let config = at("config");
    let server = ["/usr/sbin/sshd", "-D", "-e", "-f", &config];
    let payload = canary_payload(LARGE);
    through_the_mesh(&programs, &folder, &server, |netns, to| {
        let (user, port) = (at("user"), to.port().to_string());
        let target = format!("root@{}", to.ip());
        let mut words = vec!["ssh", "-F", "none", "-i", &user, "-p", &port];
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            words.extend(["-o", option]);
        }
        words.extend([&target, "cat"]);
        assert!(run(netns, folder.path(), &words, &payload) == payload);
    });
}

#[test]
fn a_database_keeps_what_a_client_on_another_pod_gives_it() {
    let folder = TempDir::new().unwrap();
    let port = PORT.to_string();
    let server = [
        "redis-server",
        "--port",
        &port,
        "--bind",
        "*",
        "-::*",
        "--protected-mode",
        "no",
        "--save",
        "",
    ];
    let value = canary_payload(LARGE);
    let programs = ["redis-server", "redis-cli"];
    through_the_mesh(&programs, &folder, &server, |netns, to| {
        let host = to.ip().to_string();
        let cli = ["redis-cli", "-h", &host, "-p", &port];
        let said = run(
            netns,
            folder.path(),
            &[&cli[..], &["-x", "SET", "key"]].concat(),
            &value,
        );
        assert_eq!(text(said), "OK\n");
        let got = run(
            netns,
            folder.path(),
            &[&cli[..], &["GET", "key"]].concat(),
            b"",
        );
        assert!(got.strip_suffix(b"\n") == Some(&value[..]));
        // Many small requests without waiting for the answers.
        let pipe = "INCRBY sum 1\r\n".repeat(10_000);
        let said = run(
            netns,
            folder.path(),
            &[&cli[..], &["--pipe"]].concat(),
            pipe.as_bytes(),
        );
        assert!(text(said).contains("errors: 0, replies: 10000"));
        let deleted = run(
            netns,
            folder.path(),
            &[&cli[..], &["DEL", "sum"]].concat(),
            b"",
        );
        assert_eq!(text(deleted), "1\n");
    });
}
