//! The smallest plugin. `plugbus up` starts it, or run it beside a broker.

use plugbus::plugin::{Context, Plugin, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    Plugin::new("hello").method("greet", greet).help("Says hello.").run().await
}

async fn greet(name: Name, _: &Context) -> Result<String> {
    Ok(format!("Hello {}", name.name))
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Name {
    name: String,
}
