//! A plain tokio application with plugins: it starts a broker on a socket, and talks to itself over
//! it as a plugin in another process would.
//!
//! Run with `cargo run --example embed_tokio`.

#![expect(clippy::print_stdout, reason = "a program prints its results")]

use plugbus::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("run/app.sock");
    let broker = Broker::builder().name("app").socket(&socket).start().await?;
    println!("{} listens", broker.name());

    let app = broker.participant("app").join().await?;
    let plugins = app.query("plugins", None).await?;
    println!("{} takes part as {}", plugins["plugins"][0]["role"], plugins["plugins"][0]["id"]);

    broker.shutdown().await;
    assert!(!socket.exists());
    println!("stopped in order");
    Ok(())
}
