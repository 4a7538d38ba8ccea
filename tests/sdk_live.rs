//! The Rust SDK against a real broker: plugins and clients in this process, over its socket.

#![cfg(all(feature = "broker", feature = "plugin"))]
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use common::{RawPeer, TestBroker};
use plugbus::plugin::{
    self, ConnectOptions, Context, Error, Event, Gap, Message, Overflow, Plugin, Received, Result,
    Signal, SubscribeOptions,
};
use plugbus::wire::body::{self, Hello};
use plugbus::wire::{Flags, Kind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

#[derive(Deserialize, JsonSchema, Serialize)]
struct Greet {
    /// Who is greeted.
    name: String,
    #[serde(default)]
    times: Option<u8>,
}

async fn greet(arguments: Greet, _: &Context) -> Result<String> {
    let times = usize::from(arguments.times.unwrap_or(1));
    Ok(vec![format!("Hello {}", arguments.name); times].join(", "))
}

#[test]
fn a_call_brings_the_result_or_names_what_is_wrong() {
    with_broker(async |socket| {
        let _plugin = start(hello(&socket), "hello", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let greeting: String = client.call("hello.greet", &json!({"name": "Ann"})).await.unwrap();
        assert_eq!(greeting, "Hello Ann");

        let call = async |method: &str, arguments: Value| {
            client.call::<String, _>(method, &arguments).await.unwrap_err()
        };
        let error = call("hello.greet", json!({"name": "Ann", "tmes": 2})).await;
        assert!(
            matches!(&error, Error::InvalidArgument { field, message }
                if field == "tmes" && message.contains("did you mean `times`?")),
            "{error:?}"
        );
        let error = call("hello.greet", json!({"name": 7})).await;
        assert!(matches!(&error, Error::InvalidArgument { field, .. } if field == "name"));
        let error = call("hello.greet", json!({})).await;
        assert!(matches!(&error, Error::InvalidArgument { field, .. } if field == "name"));
        let error = call("hello.gret", json!({})).await;
        assert!(
            matches!(&error, Error::NotFound { suggestions, .. }
                if suggestions.iter().any(|name| name.contains("greet"))),
            "{error:?}"
        );
        let error = call("helo.greet", json!({})).await;
        assert!(matches!(&error, Error::NotFound { .. }), "{error:?}");
        let error = call("hello.fail", json!({})).await;
        assert_eq!(error, Error::handler("out-of-stock", "no greeting left"));
        let error = call("hello.std_error", json!({})).await;
        assert!(matches!(&error, Error::Handler { message, .. } if message.contains("digit")));
        let error = call("hello.panic", json!({})).await;
        assert!(matches!(&error, Error::Handler { code, .. } if code == "panic"), "{error:?}");
        let greeting: String = client.call("hello.greet", &json!({"name": "B"})).await.unwrap();
        assert_eq!(greeting, "Hello B", "after all of that");
    });
}

#[test]
fn a_list_of_targets_has_a_result_for_each() {
    with_broker(async |socket| {
        let _plugin = start(hello(&socket), "hello", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let arguments = json!({"name": "Ann"});
        let targets = ["hello.greet", "nobody.greet", "hello.greet"];
        let results: Vec<Result<String>> = client.call_many(&targets, &arguments).await;
        assert_eq!(results[0], Ok("Hello Ann".to_owned()));
        assert!(matches!(results[1], Err(Error::NotFound { .. })));
        assert_eq!(results[2], Ok("Hello Ann".to_owned()));
        assert!(client.publish_many(&["a.b", "not a topic"], &1).await[1].is_err());
    });
}

#[test]
fn what_a_plugin_serves_can_be_read() {
    with_broker(async |socket| {
        let _plugin = start(hello(&socket), "hello", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let plugin = client.query("plugin", Some("hello")).await.unwrap();
        let methods = plugin["methods"].as_array().unwrap();
        let greet = methods.iter().find(|method| method["name"] == "greet").unwrap();
        assert_eq!(greet["help"], "Says hello.");
        assert_eq!(greet["idempotent"], true);
        assert_eq!(greet["params"]["properties"]["name"]["description"], "Who is greeted.");
        assert_eq!(greet["params"]["required"], json!(["name"]));
        assert_eq!(greet["result"]["type"], "string");
    });
}

/// Every message exactly once, in order, and acknowledged; more of them than a window holds.
#[test]
fn a_channel_keeps_its_order() {
    const COUNT: u64 = 40_000;
    with_broker(async |socket| {
        let (seen, mut done) = mpsc::channel(1);
        let received = Rc::new(RefCell::new(Vec::new()));
        let plugin = Plugin::new("sink").socket(&socket).channel("bulk", {
            let received = Rc::clone(&received);
            async move |message: Message, context: &Context| {
                assert_eq!(message.attempt(), 1);
                let number = u64::from_le_bytes(message.body().try_into().unwrap());
                if number % 5_000 == 17 {
                    tokio::task::yield_now().await; // Some handlers wait, most do not.
                }
                received.borrow_mut().push((message.id(), number));
                if message.id() == COUNT {
                    seen.send(context.caller().to_owned()).await.unwrap();
                }
                if number == 23 {
                    return Err(Error::handler("odd", "a failing handler stops nothing"));
                }
                Ok(())
            }
        });
        let _plugin = start(plugin, "sink", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let sender = client.sender("sink/bulk").await.unwrap();
        for number in 0..COUNT / 2 {
            assert_eq!(sender.send(&number.to_le_bytes()).await.unwrap(), number + 1);
        }
        let rest: Vec<[u8; 8]> = (COUNT / 2..COUNT).map(u64::to_le_bytes).collect();
        assert_eq!(sender.send_all(&rest).await.unwrap(), Some(COUNT));
        sender.flush().await.unwrap();
        assert_eq!(sender.progress().accepted, COUNT);
        sender.completed().await.unwrap();
        assert_eq!(sender.progress().completed, COUNT);
        assert_eq!(done.recv().await.unwrap(), client.id());
        let expected: Vec<(u64, u64)> = (0..COUNT).map(|number| (number + 1, number)).collect();
        assert!(*received.borrow() == expected, "in order, once each");
    });
}

#[test]
fn large_values_arrive_whole() {
    with_broker(async |socket| {
        let plugin = Plugin::new("echo")
            .socket(&socket)
            .method("echo", async |text: Text, _: &Context| Ok(text));
        let _plugin = start(plugin, "echo", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let text: String = ('a'..='z').cycle().take(3 << 20).collect();
        let echoed: Text = client.call("echo.echo", &Text { text: text.clone() }).await.unwrap();
        assert!(echoed.text == text);
    });
}

#[derive(Deserialize, JsonSchema, Serialize)]
struct Text {
    text: String,
}

#[test]
fn events_reach_subscriptions_and_handlers() {
    with_broker(async |socket| {
        let (seen, mut handled) = mpsc::channel(8);
        let plugin = Plugin::new("ear").socket(&socket).on("order.*", {
            let seen = seen.clone();
            async move |event: Event, context: &Context| {
                let number: u32 = event.parse()?;
                seen.send((event.topic().to_owned(), number, context.caller().to_owned())).await?;
                Ok(())
            }
        });
        let plugin = plugin.on("all", async move |event: Event, _: &Context| {
            seen.send((event.topic().to_owned(), 0, String::new())).await?;
            Ok(())
        });
        let _plugin = start(plugin, "ear", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let mut subscription = client.subscribe("order.>").await.unwrap();
        client.publish("order.created", &7).await.unwrap();
        client.publish("other", &8).await.unwrap();
        client.publish("order.paid", &9).await.unwrap();
        for (topic, number) in [("order.created", 7), ("order.paid", 9)] {
            let Some(Received::Event(event)) = subscription.next().await else {
                panic!("an event")
            };
            assert_eq!((event.topic(), event.from()), (topic, client.id()));
            assert_eq!(event.parse::<u32>().unwrap(), number);
            let expected = (topic.to_owned(), number, client.id().to_owned());
            assert_eq!(handled.recv().await.unwrap(), expected);
        }
        client.broadcast("all", &()).await.unwrap();
        assert_eq!(handled.recv().await.unwrap().0, "all");
    });
}

/// However it overflows, every event is there or in a receipt.
#[test]
fn a_subscription_sheds_as_it_chose() {
    with_broker(async |socket| {
        for (overflow, kept) in [(Overflow::DropOldest, 10), (Overflow::DropNewest, 1)] {
            let client = plugin::connect_to(&socket).await.unwrap();
            let options =
                SubscribeOptions { overflow, queue_messages: Some(3), queue_bytes: Some(1 << 10) };
            let mut news = client.subscribe_with("news", options).await.unwrap();
            let mut end = client.subscribe("end").await.unwrap();
            for number in 1..=10 {
                client.publish("news", &number).await.unwrap();
            }
            client.publish("end", &()).await.unwrap();
            // Events come in the order in which they were published, so the news are here too.
            assert!(matches!(end.next().await, Some(Received::Event(_))));
            let (mut numbers, mut missed) = (Vec::new(), 0);
            while numbers.len() as u64 + missed < 10 {
                match news.next().await.unwrap() {
                    Received::Event(event) => numbers.push(event.parse::<u64>().unwrap()),
                    Received::Gap(gap) => missed += gap.count,
                    _ => unreachable!("there is nothing else"),
                }
            }
            assert_eq!(numbers.len() as u64 + missed, 10);
            assert!(missed > 0 && numbers.contains(&kept), "{overflow:?}: {numbers:?}");
            assert!(numbers.is_sorted(), "{numbers:?}");
        }
    });
}

/// More than fits any queue of messages, while the handler does not return.
#[test]
fn a_handler_that_blocks_gets_every_event() {
    const COUNT: u64 = 20_000;
    with_broker(async |socket| {
        let (open, gate) = tokio::sync::watch::channel(false);
        let (seen, mut handled) = mpsc::channel(COUNT as usize);
        let plugin = Plugin::new("slow").socket(&socket);
        let plugin = plugin.on("tick", async move |event: Event, _: &Context| {
            gate.clone().wait_for(|open| *open).await?;
            seen.send(event.id()).await?;
            Ok(())
        });
        let _plugin = start(plugin.overflow(Overflow::Block), "slow", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        for number in 0..COUNT {
            client.publish("tick", &number).await.unwrap();
        }
        open.send(true).unwrap();
        for id in 1..=COUNT {
            assert_eq!(handled.recv().await, Some(id));
        }
    });
}

#[test]
fn a_plugin_is_told_of_the_events_that_its_handler_missed() {
    with_broker(async |socket| {
        let (open, gate) = tokio::sync::watch::channel(false);
        let (seen, mut handled) = mpsc::channel(100);
        let (missed, mut gaps) = mpsc::channel(100);
        let (end, mut ended) = mpsc::channel(1);
        let plugin = Plugin::new("slow")
            .socket(&socket)
            .on("tick", async move |event: Event, _: &Context| {
                gate.clone().wait_for(|open| *open).await?;
                seen.send(event.id()).await?;
                Ok(())
            })
            .overflow(Overflow::DropNewest)
            .queue(3, 1 << 20)
            .on("end", async move |_: Event, _: &Context| Ok(end.send(()).await?))
            .on_gap(async move |gap: Gap, _: &Context| Ok(missed.send(gap.count).await?));
        let _plugin = start(plugin, "slow", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        for number in 0..10 {
            client.publish("tick", &number).await.unwrap();
        }
        client.publish("end", &()).await.unwrap();
        ended.recv().await.unwrap();
        open.send(true).unwrap();
        let (mut events, mut count, mut last) = (0, 0, None);
        while events + count < 10 {
            tokio::select! {
                id = handled.recv() => {
                    events += 1;
                    assert!(id > last, "{id:?} comes after {last:?}");
                    last = id;
                }
                gap = gaps.recv() => count += gap.unwrap(),
            }
        }
        assert_eq!(events + count, 10);
        assert!(count > 0, "{events} events were kept");
    });
}

#[test]
fn compression_and_checksums_are_used_where_they_were_asked_for() {
    with_broker(async |socket| {
        let mut callee = RawPeer::new(UnixStream::connect(&socket).unwrap());
        let features = vec!["lz4".to_owned(), "checksum".to_owned()];
        let greeting = Hello {
            versions: vec![1],
            id: Some("raw".to_owned()),
            role: body::Role::Plugin,
            features,
            ..Hello::default()
        };
        callee.greet_with(greeting).unwrap();
        callee.register(&["echo"], &[]);
        let request = tokio::task::spawn_blocking(move || {
            let small = callee.frame_of(Kind::REQUEST).header.flags;
            (small, callee.frame_of(Kind::REQUEST).header.flags)
        });
        let options = ConnectOptions::new().socket(&socket).checksum(true).compress_from(1_000);
        let client = options.connect().await.unwrap();
        client.cast("raw.echo", &serde_json::json!({"text": "short"})).await.unwrap();
        client.cast("raw.echo", &serde_json::json!({"text": "a".repeat(2_000)})).await.unwrap();
        let (small, large) = request.await.unwrap();
        assert!(small.has(Flags::CHECKSUM) && !small.has(Flags::COMPRESSED), "{small:?}");
        assert!(large.has(Flags::CHECKSUM) && large.has(Flags::COMPRESSED), "{large:?}");

        // And both ways through the SDK.
        let plugin = hello(&socket).checksum(true).compress_from(100);
        let _plugin = start(plugin, "hello", &socket).await;
        let name = "Ann".repeat(1_000);
        let greeting: String =
            client.call("hello.greet", &serde_json::json!({ "name": name })).await.unwrap();
        assert!(greeting.contains(&name));
    });
}

#[test]
fn a_signal_arrives_with_its_data() {
    with_broker(async |socket| {
        let (seen, mut handled) = mpsc::channel(1);
        let handler = async move |signal: Signal, _: &Context| {
            let from = signal.from().map(str::to_owned);
            seen.send((from, signal.data().cloned())).await?;
            Ok(())
        };
        let plugin = Plugin::new("deaf").socket(&socket).signal("reload", handler);
        let _plugin = start(plugin, "deaf", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        client.signal_with("deaf", "reload", Some(json!({"hard": true}))).unwrap();
        let expected = (Some(client.id().to_owned()), Some(json!({"hard": true})));
        assert_eq!(handled.recv().await.unwrap(), expected);
    });
}

/// The caller's deadline holds for what the handler calls, and its end drops the handler.
#[test]
fn deadline_and_cancel_travel() {
    with_broker(async |socket| {
        let (dropped, mut drops) = mpsc::channel::<&str>(8);
        let running = Rc::new(Notify::new());
        let slow = {
            let (dropped, running) = (dropped.clone(), Rc::clone(&running));
            async move |(): (), context: &Context| -> Result<()> {
                let _guard = OnDrop("slow", dropped.clone());
                assert!(context.deadline().is_some());
                running.notify_one();
                std::future::pending().await
            }
        };
        let relay = async move |(): (), context: &Context| -> Result<()> {
            let _guard = OnDrop("relay", dropped.clone());
            context.call("slow.wait", &json!({})).await
        };
        let plugin =
            Plugin::new("slow").socket(&socket).method("wait", slow).method("relay", relay);
        let _plugin = start(plugin, "slow", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();

        let soon = client.with_timeout(Duration::from_millis(50));
        let error = soon.call::<(), _>("slow.relay", &json!({})).await.unwrap_err();
        assert!(matches!(error, Error::Timeout(_) | Error::Handler { .. }), "{error:?}");
        let mut ended = [drops.recv().await.unwrap(), drops.recv().await.unwrap()];
        ended.sort_unstable();
        assert_eq!(ended, ["relay", "slow"], "the inner call inherited the deadline");
        running.notified().await;

        let arguments = json!({});
        let mut call = Box::pin(client.call::<(), _>("slow.wait", &arguments));
        tokio::select! {
            result = &mut call => panic!("{result:?}"),
            () = running.notified() => (),
        }
        drop(call);
        assert_eq!(drops.recv().await, Some("slow"), "dropping the call cancels it");
    });
}

struct OnDrop(&'static str, mpsc::Sender<&'static str>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.1.try_send(self.0).unwrap();
    }
}

#[test]
fn every_caller_learns_that_the_callee_died() {
    with_broker(async |socket| {
        let running = Rc::new(Notify::new());
        let slow = {
            let running = Rc::clone(&running);
            async move |(): (), _: &Context| -> Result<()> {
                running.notify_one();
                std::future::pending().await
            }
        };
        let plugin = Plugin::new("frail").socket(&socket).method("wait", slow);
        let plugin = start(plugin, "frail", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let call = tokio::task::spawn_local(async move {
            client.call::<(), _>("frail.wait", &json!({})).await.unwrap_err()
        });
        running.notified().await;
        plugin.abort();
        let error = call.await.unwrap();
        assert!(matches!(error, Error::PeerDied { .. }), "{error:?}");
    });
}

#[test]
fn an_id_that_is_live_is_refused() {
    with_broker(async |socket| {
        let _plugin = start(hello(&socket), "hello", &socket).await;
        let error = hello(&socket).run().await.unwrap_err();
        assert!(matches!(&error, Error::Identity(fault) if fault.message.contains("hello")));
    });
}

#[test]
fn a_wrong_description_is_told_before_anything_happens() {
    let runtime = runtime();
    for (plugin, hint) in [
        (Plugin::new("Hello"), "Hello"),
        (Plugin::new("a").method("greet", greet).method("greet", greet), "twice"),
        (Plugin::new("a").on("a..b", async |_: Event, _: &Context| Ok(())), "a..b"),
        (Plugin::new("a").help("nothing to help with"), "follows"),
    ] {
        let plugin = plugin.socket("/nonexistent/plugbus.sock");
        let error = runtime.block_on(plugin.run()).unwrap_err();
        assert!(matches!(&error, Error::Plugin(message) if message.contains(hint)), "{error:?}");
    }
    let plugin = Plugin::new("a").socket("/nonexistent/plugbus.sock");
    let error = runtime.block_on(plugin.run()).unwrap_err();
    assert!(matches!(&error, Error::Connect(message) if message.contains("plugbus up")));
}

#[test]
fn the_brokers_end_is_the_end_of_plugins_and_calls() {
    let broker = TestBroker::start();
    let socket = broker.socket();
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, async {
        let running = Rc::new(Notify::new());
        let slow = {
            let running = Rc::clone(&running);
            async move |(): (), _: &Context| -> Result<()> {
                running.notify_one();
                std::future::pending().await
            }
        };
        let idle = start(hello(&socket), "hello", &socket).await;
        let plugin = Plugin::new("slow").socket(&socket).method("wait", slow);
        let _busy = start(plugin, "slow", &socket).await;
        let client = plugin::connect_to(&socket).await.unwrap();
        let call = tokio::task::spawn_local(async move {
            client.call::<(), _>("slow.wait", &json!({})).await.unwrap_err()
        });
        running.notified().await;
        let shutdown = tokio::task::spawn_blocking(move || drop(broker));
        let outcome = idle.await.unwrap();
        assert_eq!(outcome, Ok(()), "told to stop, it stopped in order");
        let error = call.await.unwrap();
        assert!(
            matches!(error, Error::BrokerGone(_) | Error::PeerDied { .. } | Error::Cancelled(_)),
            "one outcome: {error:?}"
        );
        shutdown.await.unwrap();
    });
}

fn hello(socket: &PathBuf) -> Plugin {
    Plugin::new("hello")
        .socket(socket)
        .method("greet", greet)
        .help("Says hello.")
        .idempotent()
        .method("fail", async |(): (), _: &Context| -> Result<String> {
            Err(Error::handler("out-of-stock", "no greeting left"))
        })
        .method("std_error", async |(): (), _: &Context| -> Result<u8> { Ok("x".parse::<u8>()?) })
        .method("panic", async |(): (), _: &Context| -> Result<u8> { panic!("on purpose") })
}

/// Runs a plugin on this thread, until the handle is aborted.
async fn start(plugin: Plugin, id: &str, socket: &PathBuf) -> tokio::task::JoinHandle<Result<()>> {
    let client = plugin::connect_to(socket).await.unwrap();
    let mut states = client.subscribe(&format!("plugbus.lifecycle.{id}.*")).await.unwrap();
    let handle = tokio::task::spawn_local(plugin.run());
    while let Some(received) = states.next().await {
        if matches!(&received, Received::Event(event) if event.topic().ends_with(".ready")) {
            return handle;
        }
    }
    panic!("the broker went away before `{id}` was ready")
}

fn with_broker(test: impl AsyncFnOnce(PathBuf)) {
    let broker = TestBroker::start();
    let runtime = runtime();
    LocalSet::new().block_on(&runtime, test(broker.socket()));
    drop(runtime);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
