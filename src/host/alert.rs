//! Who is told when a plugin needs a person.
//!
//! The log and the event on `plugbus.alert.ID` come always; a program and a web address on request,
//! through the [courier](super::courier). The program runs where the host does, since it is told
//! of many plugins. An alert that cannot be delivered is a line in the log, never a reason to wait.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::limit;

/// Something that a person should look at.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Alert {
    /// The plugin's id.
    pub plugin: String,
    /// Which of its processes, from 0.
    pub instance: u32,
    /// What it is about: `disabled`, `quarantined`, `failed`, `unkillable` or `health`.
    pub kind: &'static str,
    /// What happened, for people.
    pub message: String,
    /// When, as RFC 3339 in UTC.
    pub time: String,
}

/// Where alerts of a plugin go beside the log and the event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Recipients {
    /// A program and its arguments; it gets the alert as JSON on its standard input, and runs in
    /// the working directory of the host.
    pub(crate) command: Vec<String>,
    /// An address that gets the alert as JSON by POST.
    pub(crate) webhook: Option<String>,
}

impl Recipients {
    pub(crate) fn is_nobody(&self) -> bool {
        self.command.is_empty() && self.webhook.is_none()
    }
}

impl Alert {
    /// Hands it over. Returns when all have it or have failed.
    pub(crate) async fn deliver(&self, to: &Recipients) {
        let json = serde_json::to_vec(self).expect("an alert is strings and numbers");
        if !to.command.is_empty()
            && let Err(error) = run(&to.command, &json).await
        {
            log::error!("the alert command {:?} failed: {error}", to.command);
        }
        if let Some(address) = to.webhook.clone() {
            let shown = address.clone();
            let posted = tokio::task::spawn_blocking(move || post(&address, &json)).await;
            if let Err(reason) = posted.unwrap_or_else(|panic| Err(panic.to_string())) {
                log::error!("the alert could not be posted to {shown}: {reason}");
            }
        }
    }
}

async fn run(command: &[String], input: &[u8]) -> io::Result<()> {
    let (program, arguments) = command.split_first().expect("it is not empty");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let told = async {
        // A program that does not read its input may still do what it is for.
        match stdin.write_all(input).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => (),
            written => written?,
        }
        drop(stdin);
        child.wait().await
    };
    let status = tokio::time::timeout(limit::ALERT_TIMEOUT, told)
        .await
        .map_err(|_elapsed| timed_out(limit::ALERT_TIMEOUT))??;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

fn post(address: &str, json: &[u8]) -> Result<(), String> {
    if address.starts_with("https:") {
        return Err("TLS is not spoken here; an alert command can post with `curl`".to_owned());
    }
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(limit::ALERT_TIMEOUT)).build().into();
    let sent = agent.post(address).header("content-type", "application/json").send(json);
    sent.map(drop).map_err(|error| error.to_string())
}

fn timed_out(after: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("not done after {after:?}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn alert() -> Alert {
        Alert {
            plugin: "weather".to_owned(),
            instance: 0,
            kind: "disabled",
            message: "it failed 11 times".to_owned(),
            time: "2026-01-02T03:04:05.678Z".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_program_gets_the_alert_on_its_input() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("alert.json");
        let command = vec!["sh".into(), "-c".into(), format!("cat > {}", file.display())];
        alert().deliver(&Recipients { command, webhook: None }).await;
        let got: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!((&got["plugin"], &got["kind"]), (&"weather".into(), &"disabled".into()));
    }

    #[tokio::test]
    async fn a_web_address_gets_the_alert_by_post() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/alerts", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let lower = head.to_lowercase();
            let size = lower.split("content-length: ").nth(1).unwrap();
            let size: usize = size.lines().next().unwrap().trim().parse().unwrap();
            let mut body = vec![0; size];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n").unwrap();
            (head, body)
        });
        alert().deliver(&Recipients { command: Vec::new(), webhook: Some(address) }).await;
        let (head, body) = server.join().unwrap();
        assert!(head.starts_with("POST /alerts "), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("it failed 11 times"));
    }

    #[tokio::test]
    async fn what_cannot_be_told_is_said_with_the_reason() {
        let cases: [(&[&str], &str); 2] =
            [(&["no-such-program-here"], "No such file"), (&["false"], "exit status: 1")];
        for (command, wanted) in cases {
            let command: Vec<_> = command.iter().map(|&word| word.to_owned()).collect();
            let error = run(&command, b"{}").await.unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(post("http://127.0.0.1:1/", b"{}").is_err());
        let error = post("https://127.0.0.1:1/", b"{}").unwrap_err();
        assert!(error.contains("curl"), "{error}");
    }
}
