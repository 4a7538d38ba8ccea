//! Actors of the host as participants: one serves a method and a channel, another calls and sends.
//!
//! Run with `cargo run --example host_actor`.

#![expect(clippy::print_stdout, reason = "a program prints its results")]

use std::collections::BTreeMap;

use actix::prelude::*;
use plugbus::error::{Code, Fault};
use plugbus::{Broker, Call, Message, Reply};

/// Adds up numbers that come down its channel.
#[derive(Default)]
struct Sum(i64);

impl Actor for Sum {
    type Context = Context<Self>;
}

impl Handler<Message> for Sum {
    type Result = ();

    fn handle(&mut self, message: Message, _ctx: &mut Self::Context) {
        match message.decode::<i64>() {
            Ok(number) => self.0 += number,
            Err(fault) => eprintln!("message {}: {fault}", message.id()),
        }
    }
}

impl Handler<Call> for Sum {
    type Result = Result<Reply, Fault>;

    fn handle(&mut self, call: Call, _ctx: &mut Self::Context) -> Self::Result {
        let arguments: BTreeMap<String, i64> = call.decode()?;
        match arguments.get("times") {
            Some(times) => Reply::of(&(self.0 * times)),
            None => Err(Fault::new(Code::InvalidArgument, "there is no argument `times`")),
        }
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::builder().start().await?;
    let sum = Sum::default().start();
    let _sum = broker
        .participant("sum")
        .method("multiplied", sum.clone().recipient())?
        .channel("numbers", sum.recipient())?
        .join()
        .await?;

    let caller = broker.participant("caller").join().await?;
    for number in 1..=100_i64 {
        caller.send("sum/numbers", &number).await?;
    }
    caller.flush("sum/numbers").await?;
    let arguments = BTreeMap::from([("times", 2)]);
    let result: i64 = caller.call("sum.multiplied", &arguments).await?;
    println!("twice the sum of 1 to 100 is {result}");
    assert_eq!(result, 10_100);

    if let Err(fault) = caller.call::<_, i64>("sum.multiplid", &arguments).await {
        println!("{fault}");
    }
    broker.shutdown().await;
    Ok(())
}
