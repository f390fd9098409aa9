//! The errors of `ringhub.v1`, one row for each. docs/protocol.md has the same table.

use crate::proto::Refusal;

/// The errors of commands.
macro_rules! errors {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $number:literal $name:literal $lasts:ident;)+) => {
        /// An error of a command. No error closes the connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ErrorCode {
            $($(#[doc = $meaning])+ $variant,)+
        }

        /// Every error, in the order of the numbers.
        #[cfg(test)]
        pub(crate) const ERRORS: &[ErrorCode] = &[$(ErrorCode::$variant),+];

        impl ErrorCode {
            /// Returns the number, the name, and whether the same command may succeed later.
            const fn row(self) -> (u16, &'static str, Lasts) {
                match self {
                    $(ErrorCode::$variant => ($number, $name, Lasts::$lasts),)+
                }
            }

            /// Returns the meaning, in words.
            #[cfg(test)]
            pub(super) fn meaning(self) -> String {
                let lines: &[&str] = match self {
                    $(ErrorCode::$variant => &[$($meaning),+],)+
                };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

/// Whether the cause of an error passes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasts {
    Always,
    ForAWhile,
}

errors! {
    /// The message is binary.
    NotText = 100 "not_text" Always;
    /// The message is not one JSON object.
    NotJson = 101 "not_json" Always;
    /// The object does not have exactly one member, which names the command.
    NotOneCommand = 102 "not_one_command" Always;
    /// The command is not known.
    UnknownCommand = 103 "unknown_command" Always;
    /// A member of the command is not known.
    UnknownMember = 104 "unknown_member" Always;
    /// A member of the command is there twice.
    DuplicateMember = 105 "duplicate_member" Always;
    /// A member that the command needs is missing.
    MissingMember = 106 "missing_member" Always;
    /// The value of a member has the wrong type, or is out of its range.
    BadMember = 107 "bad_member" Always;
    /// The name of the topic is malformed.
    BadTopic = 108 "bad_topic" Always;
    /// A command with the same id has not been answered.
    DuplicateId = 109 "duplicate_id" Always;
    /// The connection is a subscriber of the topic, or becomes one.
    AlreadySubscribed = 110 "already_subscribed" Always;
    /// The connection is no subscriber of the topic.
    NotSubscribed = 111 "not_subscribed" Always;
    /// The connection has as many topics as the server allows.
    TooManyTopics = 112 "too_many_topics" Always;
    /// The payload is larger than the largest message to the topic.
    TooLarge = 113 "too_large" Always;
    /// The subscription was cancelled by an `unsubscribe` before it was live.
    Cancelled = 114 "cancelled" Always;
    /// A message with the same idempotency key and other contents was published to the topic before.
    OtherContents = 115 "other_contents" Always;
    /// The message has no key, and its topic asks for one.
    NoKey = 116 "no_key" Always;
    /// The server has ended the subscription.
    Ended = 117 "ended" Always;
    /// The rules of the topic keep no presence.
    NoPresence = 118 "no_presence" Always;
    /// A token is missing, wrong, expired or revoked.
    Unauthorized = 120 "unauthorized" Always;
    /// The client may not use the topic.
    Forbidden = 121 "forbidden" Always;
    /// The token is that of another identity; it needs a new connection.
    OtherIdentity = 122 "other_identity" Always;
    /// The route has no authenticator that could judge a token.
    NoAuthenticator = 123 "no_authenticator" Always;
    /// Too many commands of the connection wait for their answers.
    TooManyCommands = 130 "too_many_commands" ForAWhile;
    /// The client's address has shown wrong credentials too often, or too many questions to the application wait for
    /// it.
    TooManyRequests = 131 "too_many_requests" ForAWhile;
    /// The server, or the application that it asks, cannot decide now.
    Unavailable = 132 "unavailable" ForAWhile;
    /// As many idempotency keys are remembered as the server has memory for.
    KeysFull = 133 "keys_full" ForAWhile;
}

impl ErrorCode {
    /// Returns the number of the error.
    pub(crate) fn number(self) -> u16 {
        self.row().0
    }

    /// Returns the name of the error.
    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    /// Returns whether the same command may succeed later.
    pub(crate) fn is_temporary(self) -> bool {
        self.row().2 == Lasts::ForAWhile
    }

    /// Returns the error for a refusal of the judge.
    pub(super) fn of_refusal(refusal: &Refusal) -> ErrorCode {
        match refusal.status {
            400 | 404 => ErrorCode::BadTopic,
            401 => ErrorCode::Unauthorized,
            413 => ErrorCode::TooLarge,
            422 => ErrorCode::NoKey,
            429 => ErrorCode::TooManyRequests,
            500.. => ErrorCode::Unavailable,
            _ => ErrorCode::Forbidden,
        }
    }
}
