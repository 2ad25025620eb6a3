//! Streams between kubectl and a container: logs, exec, port-forward.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use steersman_conformance::process::Background;
use steersman_conformance::{Namespace, WEB_IMAGE, eventually, manifest};

fn client(name: &str) -> Namespace {
    let ns = Namespace::new(name);
    let _ = ns.kubectl.run_of(&["apply", "-f", &manifest("client.yaml")]).ok();
    let _ = ns
        .kubectl
        .run("wait pod/client --for=condition=Ready --timeout=60s")
        .ok();
    ns
}

#[test]
fn exec_runs_a_command_and_returns_its_output_and_status() {
    let ns = client("exec");
    let output = ns
        .kubectl
        .run_of(&["exec", "client", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.stdout.as_str(), output.code), ("out\n", 7));
    assert!(output.stderr.starts_with("err\n"), "{}", output.stderr);
    assert!(
        output.stderr.contains("command terminated with exit code 7"),
        "{}",
        output.stderr
    );
}

#[test]
fn exec_passes_standard_input_on_and_ends_with_it() {
    let ns = client("stdin");
    let text: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    let output = ns.kubectl.run_with(&["exec", "-i", "client", "--", "cat"], &text);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout == text,
        "{} of {} bytes came back",
        output.stdout.len(),
        text.len()
    );
}

#[test]
fn exec_gives_a_terminal_with_the_size_of_the_callers() {
    let ns = client("terminal");
    let inner = ns.kubectl.command_of(&[
        "exec",
        "-it",
        "client",
        "--",
        "sh",
        "-c",
        "for i in $(seq 100); do stty size 2>/dev/null | grep . && break; usleep 50000; done",
    ]);
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|w| format!("'{}'", w.to_string_lossy()))
        .collect();
    // script(1) gives kubectl a terminal of its own. The size arrives a moment after the command has started.
    let line = format!("stty rows 33 cols 111; {}", words.join(" "));
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("33 111"), "{text}");
}

#[test]
fn logs_are_followed_from_the_start_and_as_they_come() {
    let ns = Namespace::new("logs");
    ns.kubectl.apply(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"talker"},"spec":{"terminationGracePeriodSeconds":0,"restartPolicy":"Never","containers":[{"name":"c","image":"busybox:1.36",
        "imagePullPolicy":"IfNotPresent","command":["sh","-c","for i in 1 2 3 4 5; do echo line $i; sleep 1; done"]}]}}"#,
    );
    eventually("the container has started", 60, || {
        let logs = ns.kubectl.run("logs talker");
        if logs.stdout.contains("line 1") {
            Ok(())
        } else {
            Err(logs.stderr)
        }
    });
    let mut child = ns
        .kubectl
        .command("logs -f talker")
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let lines: Vec<String> = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok)
        .collect();
    assert!(child.wait().expect("it ends with the container").success());
    assert_eq!(lines, ["line 1", "line 2", "line 3", "line 4", "line 5"]);
    assert_eq!(ns.kubectl.run("logs talker --tail=1").ok(), "line 5\n");
    let stamped = ns.kubectl.run("logs talker --timestamps --tail=1").ok();
    assert!(stamped.contains("T") && stamped.ends_with("Z line 5\n"), "{stamped}");
    assert!(
        ns.kubectl
            .run("logs nobody")
            .refused()
            .contains("pods \"nobody\" not found")
    );
}

#[test]
fn a_forwarded_port_reaches_the_pod_many_times() {
    let ns = Namespace::new("forward");
    let _ = ns
        .kubectl
        .run(&format!("run web --image={WEB_IMAGE} --image-pull-policy=IfNotPresent"))
        .ok();
    let _ = ns.kubectl.run("wait pod/web --for=condition=Ready --timeout=60s").ok();
    let mut child = ns
        .kubectl
        .command("port-forward pod/web :8080 --address=127.0.0.1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let forward = Background(child);
    let first = lines.next().and_then(Result::ok).expect("a line that names the port");
    let port: u16 = first
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|r| r.split(' ').next())
        .and_then(|p| p.parse().ok())
        .expect(&first);
    for _ in 0..5 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the local port listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout can be set");
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.contains("web version 1"), "{answer}");
    }
    drop(forward);
}
