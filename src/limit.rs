//! Every bound, with its reason. Sizes are bytes. What a host may move is in [`Limits`].

mod settings;

use std::time::Duration;

pub use self::settings::{LimitError, Limits, SETTINGS, Setting};

/// Largest payload of one frame. Larger messages are chunked, so that a frame never keeps a
/// connection busy for long.
pub const PAYLOAD_MAX: u32 = 1 << 20;

/// Largest message: what the broker collects before it can hand a chunked message on.
pub const MESSAGE_MAX: u64 = 64 << 20;

/// Unfinished chunked messages of one session. They can be neither delivered nor forgotten.
pub const ASSEMBLIES_MAX: usize = 64;

/// Window of a channel or topic: messages. Enough for a full pipeline of small messages.
pub const WINDOW_MESSAGES: u64 = 16_384;

/// Largest window that a host can set: messages. What waits in the SDKs is counted by it.
pub const WINDOW_MESSAGES_MAX: u64 = 1 << 20;

/// Window of a channel or topic: payload bytes. With larger ones small sockets gain nothing.
pub const WINDOW_BYTES: u64 = 1 << 20;

/// Unanswered requests of one session.
pub const REQUESTS_MAX: u32 = 16_384;

/// Payload bytes of unanswered requests of one session; one may start while below.
pub const REQUEST_BYTES_MAX: u64 = 16 << 20;

/// Requests that wait in the queue of one callee, from all callers. A callee that hangs costs its
/// callers refusals, not the broker memory.
pub const CALLEE_QUEUE_REQUESTS_MAX: u32 = 65_536;

/// Bytes of requests that wait in the queue of one callee.
pub const CALLEE_QUEUE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of responses that wait for one caller that does not read; beyond, it gets the refusal in
/// their place.
pub const RESPONSE_QUEUE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of the broker's own answers that wait for one peer. One that asks and never reads is
/// disconnected at this point: its answers can be neither delivered nor shed.
pub const CONTROL_QUEUE_BYTES_MAX: u64 = 4 << 20;

/// Bytes of channel messages retained for one sender, over all its channels.
pub const RETAINED_BYTES_MAX: u64 = 256 << 20;

/// Routes of one session. A session that resolves names in a loop is stopped here.
pub const ROUTES_MAX: u32 = 4_096;

/// Subscriptions of one session.
pub const SUBSCRIPTIONS_MAX: u32 = 1_024;

/// Methods, channels and services of one plugin, each.
pub const REGISTRATIONS_MAX: usize = 1_024;

/// Bytes that the methods, channels and services of one plugin take, schemas and help included. A
/// thousand methods of a few KiB each fit.
pub const REGISTRATION_BYTES_MAX: u64 = 4 << 20;

/// Bytes that are kept of what a plugin had registered when it has gone. As many as are remembered
/// may have left that behind.
pub const REGISTRATION_KEPT_BYTES_MAX: u64 = 64 << 10;

/// One control body. Larger than any schema that a person writes.
pub const CONTROL_BODY_MAX: usize = 256 << 10;

/// One `report`.
pub const REPORT_MAX: usize = 4 << 10;

/// Data of one ping.
pub const PING_MAX: usize = 64;

/// Levels of nesting in a control body.
pub const NESTING_MAX: usize = 32;

/// Events queued for one subscriber, by default and at most.
pub const EVENT_QUEUE_MESSAGES: u64 = 16_384;

/// Bytes of events queued for one subscriber, by default.
pub const EVENT_QUEUE_BYTES: u64 = 1 << 20;

/// Bytes of events queued for one subscriber, at most.
pub const EVENT_QUEUE_BYTES_MAX: u64 = 64 << 20;

/// Topics of which the queue of one subscriber holds nothing but receipts or the end. Beyond,
/// events of further topics are shed under one receipt: topics that come and go are no way to fill
/// the memory of somebody who does not read.
pub const TOPICS_UNREAD_MAX: usize = 4_096;

/// Connections at once; each costs a descriptor and, when idle, some KiB.
pub const SESSIONS_MAX: usize = 12_288;

/// Connections that have not said hello yet.
pub const HANDSHAKES_MAX: usize = 256;

/// Plugins that the broker remembers after they have gone, for offline answers and incarnations.
pub const PLUGINS_REMEMBERED_MAX: usize = 4_096;

/// Children of one supervised group; as many as plugins are remembered.
pub const CHILDREN_MAX: usize = PLUGINS_REMEMBERED_MAX;

/// Changes of children that a subscriber may be behind. A slower one is told how many it missed.
pub const TRANSITIONS_MAX: usize = 1_024;

/// Dead letters kept as records.
pub const DEAD_LETTERS_MAX: usize = 1_024;

/// Messages and requests in quarantine that are kept as records.
pub const QUARANTINED_MAX: usize = 1_024;

/// Time from connect to a complete hello.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Deadline of a call that names none.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a peer waits beyond a call's deadline for the broker's word, which knows more, before
/// it gives the outcome itself.
pub const CALL_GRACE: Duration = Duration::from_millis(500);

/// How long a caller whose callee has crashed waits for what is known of its process. The exit
/// usually comes within a millisecond of the end of the connection.
pub const EXIT_TIMEOUT: Duration = Duration::from_millis(250);

/// Deliveries of a request of an idempotent method, the first one included.
pub const ATTEMPTS_MAX: u32 = 3;

/// Crashes over one message after which it is quarantined. Two may be chance.
pub const CRASHES_MAX: usize = 3;

/// Crashes over one message after which it is delivered alone, so that it is known who is guilty.
pub const CRASHES_ALONE: usize = CRASHES_MAX - 1;

/// Instances of one plugin at once, those being replaced included.
pub const INSTANCES_MAX: usize = 64;

/// How often it is seen whether an instance that was replaced has finished what it has.
pub const RETIRE_INTERVAL: Duration = Duration::from_millis(10);

/// How long messages wait for an absent receiver.
pub const ABSENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Silence after which the broker pings a peer.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long `shutdown` waits for sessions to drain.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// One read of a socket, and the size of a pooled buffer.
pub const READ_BUFFER_SIZE: usize = 64 << 10;

/// Runs below this are copied instead of sliced, so that a slice pins at most twice its size.
pub const COPY_BELOW: usize = READ_BUFFER_SIZE / 2;

/// What a write task takes from an outbox at once.
pub const WRITE_BATCH_SIZE: usize = 256 << 10;

/// One line that a plugin prints. Longer ones come in pieces, so that a plugin that never ends a
/// line costs no memory.
pub const OUTPUT_LINE_MAX: usize = 8 << 10;

/// One log file of a plugin. A search in an editor is still quick.
pub const LOG_FILE_SIZE_MAX: u64 = 4 << 20;

/// Full log files that are kept for a plugin, beside the one that is written.
pub const LOG_FILES_MAX: usize = 4;

/// Log files that are open at once; each costs a descriptor.
pub const LOG_FILES_OPEN_MAX: usize = 128;

/// Log lines of all plugins that wait for the disk.
pub const LOG_QUEUE_LINES_MAX: usize = 16_384;

/// What is read of the output of a plugin that has ended: as much as a pipe can hold unless the
/// administrator has raised that. More can only come from somebody else who writes to the pipe.
pub const OUTPUT_REST_MAX: usize = 1 << 20;

/// Health is looked at no more often than this.
pub const HEALTH_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Answers to health checks that wait to be taken.
pub const HEALTH_ANSWERS_MAX: usize = 256;

/// Between the attempts of a participant of the host to join again, the first of which comes at
/// once; each is twice as long as the one before.
pub const REJOIN_DELAY: Duration = Duration::from_millis(50);

/// The longest of them.
pub const REJOIN_DELAY_MAX: Duration = Duration::from_secs(5);

/// Changes of a plugin's state that are remembered.
pub const TIMELINE_ROWS_MAX: usize = 64;

/// Lines of a plugin's standard error that are remembered.
pub const STDERR_LINES_MAX: usize = 40;

/// How long an alert command or a web address may take.
pub const ALERT_TIMEOUT: Duration = Duration::from_secs(10);

/// Alerts that are told to programs and web addresses at once, so that plugins which fail together
/// do not start as many programs.
pub const ALERTS_AT_ONCE_MAX: usize = 4;

/// Alerts that wait to be told there: the quarantine of every plugin of a large application. With
/// recipients that use up their time, the last one waits for ten minutes.
pub const ALERTS_QUEUED_MAX: usize = 256;

/// Plugin processes that wait to be started.
pub const SPAWNS_MAX: usize = 1_024;

/// From start to *ready*. An interpreter on a slow disk takes seconds.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// From the shutdown notice to SIGTERM.
pub const STOP_NOTICE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a process that was replaced has to finish its calls: those with the default deadline end
/// by themselves.
pub const RETIRE_TIMEOUT: Duration = Duration::from_secs(35);

/// From SIGTERM to SIGKILL.
pub const STOP_SIGNAL_TIMEOUT: Duration = Duration::from_secs(2);

/// From SIGKILL to calling a plugin unkillable. The kernel needs milliseconds, unless a process
/// waits inside it for a device or a network file system.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A manifest or a configuration. Longer ones are data, and reading them is no start of a plugin.
pub const MANIFEST_MAX: u64 = 1 << 20;

/// How long new calls wait for a plugin that is started again, by default.
pub const RESTART_HOLD: Duration = Duration::from_secs(2);

/// Delay before the second restart in a row, by default. The next ones double it.
pub const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Longest delay before a restart, by default.
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(16);

/// A run so long is stable, by default: the restarts before it no longer count.
pub const STABLE_RUN: Duration = Duration::from_secs(10);

/// More restarts within [`RESTART_WINDOW`] mean quarantine, by default.
pub const RESTARTS_WITHIN: u32 = 6;

/// The window in which restarts are counted, by default.
pub const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// How long a plugin that crashed too often is left alone before one trial, by default.
pub const QUARANTINE: Duration = Duration::from_secs(30);

/// The longest quarantine, by default.
pub const QUARANTINE_MAX: Duration = Duration::from_secs(300);

/// Restarts since the last stable run after which the next one disables a plugin, by default.
pub const RESTARTS_MAX: u32 = 10;

/// How often the health of a plugin is looked at, by default, and how long it may take to answer.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// Failed checks in a row after which a plugin hangs, by default.
pub const HEALTH_MISSES: u32 = 3;

/// Age of the oldest message without an answer at which somebody is told, by default. Longer than
/// the deadline of a call.
pub const HEALTH_OLDEST: Duration = Duration::from_secs(60);

/// How long it must be quiet before a change in a folder of plugins is looked at. An editor that
/// saves takes some milliseconds.
pub const CHANGE_QUIET: Duration = Duration::from_millis(100);

/// What is kept of the words of an installation; the end says what went wrong.
pub const ERRAND_OUTPUT_MAX: usize = 64 << 10;

/// How long a tool may take to say its version. Some are started by slow scripts.
pub const TOOL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long it may take to prepare a plugin's start, by default: to ask its tools for their
/// versions, and to install its packages, of which some are large and some are compiled.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(900);

/// How often a plugin that is being prepared says so, if its time to start does not ask for more.
pub const PREPARE_BEAT: Duration = Duration::from_secs(1);

/// The most that a short time to start can ask for.
pub const PREPARE_BEAT_MIN: Duration = Duration::from_millis(1);

/// Versions of tools that are remembered.
pub const TOOLS_REMEMBERED_MAX: usize = 256;

const _: () = {
    assert!(RESTART_DELAY.as_nanos() <= RESTART_DELAY_MAX.as_nanos());
    assert!(WINDOW_BYTES <= RETAINED_BYTES_MAX);
    assert!(EVENT_QUEUE_BYTES <= EVENT_QUEUE_BYTES_MAX);
    assert!(CONTROL_BODY_MAX <= PAYLOAD_MAX as usize);
    assert!(PAYLOAD_MAX as u64 <= MESSAGE_MAX);
    assert!(CONTROL_BODY_MAX as u64 * 4 <= CONTROL_QUEUE_BYTES_MAX);
};
