//! An actix application with plugins: it starts a broker and lets one of its actors take part.
//!
//! Run with `cargo run --example embed_actix`. It plays the plugin itself, as a second participant.

#![expect(clippy::print_stdout, reason = "a program prints its results")]

use actix::prelude::*;
use plugbus::error::Fault;
use plugbus::{Broker, Call, Event, Reply};

/// Counts what it hears, and says how much that is.
#[derive(Default)]
struct Gallery {
    resized: u64,
}

impl Actor for Gallery {
    type Context = Context<Self>;
}

impl Handler<Event> for Gallery {
    type Result = ();

    fn handle(&mut self, event: Event, _ctx: &mut Self::Context) {
        self.resized += 1;
        println!("{} from {}", event.topic(), event.publisher());
    }
}

impl Handler<Call> for Gallery {
    type Result = Result<Reply, Fault>;

    fn handle(&mut self, _call: Call, _ctx: &mut Self::Context) -> Self::Result {
        Reply::of(&self.resized)
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().name("gallery").start().await?;
    let gallery = Gallery::default().start();
    let _gallery = broker
        .participant("gallery")
        .method("count", gallery.clone().recipient())?
        .on("image.*", gallery.recipient())?
        .join()
        .await?;

    let images = broker.participant("images").join().await?;
    images.publish("image.resized", &["cat.jpg"]).await?;
    images.publish("image.resized", &["dog.jpg"]).await?;
    let mut count: u64 = 0;
    while count < 2 {
        count = images.call("gallery.count", &()).await?;
    }
    println!("{count} images");
    broker.shutdown().await;
    Ok(())
}
