//! What goes wrong on purpose, and how often it did.

macro_rules! faults {
    ($($variant:ident = $name:literal,)*) => {
        /// A kind of misfortune or malice.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[expect(missing_docs, reason = "the names in the table say it")]
        pub enum FaultKind {
            $($variant,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

faults! {
    CrashIdle = "a plugin dies between two frames",
    CrashInFrame = "a plugin dies in the middle of a frame that it sends",
    CrashWithUnread = "a plugin dies with bytes unread",
    CrashInHandshake = "a plugin dies before its welcome",
    Leave = "a plugin leaves in order",
    Stop = "the broker asks a plugin to stop",
    SupervisedRestart = "a supervised plugin is started again",
    BackOff = "a supervised plugin is started again after a while",
    Down = "a supervised plugin is not started for a while",
    Sleep = "a supervised plugin sleeps",
    Woken = "a plugin that sleeps is woken",
    Replace = "a plugin is to be replaced",
    Switch = "a replacement takes over",
    ReplacementFails = "a replacement ends before it takes over",
    Retry = "a request is delivered again",
    KillingMessage = "a message kills its receiver",
    KillingRequest = "a request kills its callee",
    Quarantine = "a message is quarantined",
    QuarantineRequest = "a request is quarantined",
    Return = "a plugin returns under its id",
    ReturnTooEarly = "a plugin returns while its old session lives",
    SlowReader = "a plugin stops reading for a while",
    LateAnswer = "a handler answers after the deadline",
    NoAnswer = "a handler never answers",
    HandlerError = "a handler fails",
    LateAck = "messages are acknowledged late, many at once",
    Cancel = "a caller cancels",
    ShortDeadline = "a deadline too short to be met",
    TimeJump = "the clock jumps ahead",
    Unregister = "a plugin takes back what it serves",
    CloseRoute = "a route is given up",
    Chunked = "a message comes in chunks",
    Interleaved = "chunks of two messages are interleaved",
    ForgedSession = "a frame bears another's session",
    UnknownRoute = "a frame on a route that was never given",
    StrangerRoute = "a frame on somebody else's route",
    FalseAck = "an acknowledgement of what was never sent",
    AnswerToNothing = "an answer to no request",
    AnswerForAnother = "an answer to somebody else's request",
    CreditOverrun = "more messages than the window",
    OutOfSequence = "a message id out of turn",
    SecondHello = "a second hello",
    UnknownType = "a frame of an unknown type",
    WrongDirection = "a frame that only the broker may send",
    Unagreed = "a flag that was not agreed",
    Malformed = "a control body that is none",
    ReservedBits = "reserved bits",
    Oversized = "a payload over the limit",
    BadTrailer = "a trailer that is wrong",
    Garbage = "bytes that are no frame",
    BadHello = "a handshake that is none",
    TooManySubscriptions = "more subscriptions than allowed",
    TooManyChunks = "more unfinished messages than allowed",
    TooManyRequests = "more bytes of requests than allowed",
    Unread = "questions whose answers are never read",
}

/// Counts by kind.
#[derive(Clone, Debug)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; FaultKind::ALL.len()])
    }
}

impl FaultCounts {
    pub(super) fn note(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// How often it happened.
    #[must_use]
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// Kinds that never happened: what is claimed about them was not tested.
    #[must_use]
    pub fn missing(&self) -> Vec<FaultKind> {
        FaultKind::ALL.iter().copied().filter(|&kind| self.of(kind) == 0).collect()
    }
}
