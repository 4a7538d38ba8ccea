//! A program that only calls: `cargo run --example client -- Ann`, beside a broker with the plugin
//! `hello`.

use plugbus::plugin::{Result, connect};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "a program prints its result")]
async fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "world".to_owned());
    let client = connect().await?;
    let greeting: String = client.call("hello.greet", &json!({ "name": name })).await?;
    println!("{greeting}");
    client.close().await;
    Ok(())
}
