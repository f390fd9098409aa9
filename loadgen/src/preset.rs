//! What each kind of server expects and answers, as texts and patterns (`pattern`).

use crate::units::Packing;
use clap::ValueEnum;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    /// ringhub: topics at /t/TOPIC; subscribers ask for mode=sub, publishers for mode=pub.
    Ringhub,
    /// A server that sends each message to all connections, or to all but the sender's.
    Ws,
    /// The same as ws.
    Bun,
    /// The same as ws.
    Kore,
    /// nchan with the locations /sub?id=TOPIC and /pub?id=TOPIC; publishes by POST.
    Nchan,
    /// The WebSocket listener of a NATS server.
    Nats,
    /// Socket.IO 4: clients emit subscribe(topic, ack) and publish(topic, payload), the server emits message(payload).
    Socketio,
    /// The Pusher protocol; publishes by signed POST. Needs --set key=KEY --set app=ID --set secret=SECRET.
    Pusher,
    /// Centrifuge's JSON protocol, as Centrifugo has it. Clients must be allowed to connect without a token and to
    /// publish.
    Centrifuge,
}

/// The texts of a kind of server. A path that is empty is that of the URL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preset {
    pub(crate) path: &'static str,
    pub(crate) publish_path: &'static str,
    pub(crate) sub_query: &'static str,
    pub(crate) pub_query: &'static str,
    pub(crate) subprotocol: &'static str,
    /// The steps after the opening handshake, each with `send:` or `await:`.
    pub(crate) hello: &'static [&'static str],
    pub(crate) subscribe: &'static str,
    pub(crate) acknowledgement: &'static str,
    /// Empty if the whole message is the payload.
    pub(crate) delivery: &'static str,
    pub(crate) packing: Packing,
    pub(crate) replies: &'static [(&'static str, &'static str)],
    pub(crate) ignored: &'static [&'static str],
    pub(crate) refusals: &'static [&'static str],
    pub(crate) publish: Publish,
    pub(crate) publishers: Publishers,
    pub(crate) is_binary: bool,
}

/// How a message is published.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Publish {
    /// As a WebSocket message.
    Message(&'static str),
    /// By POST to the publishing path.
    Post { content_type: &'static str, body: &'static str, signing: Signing },
}

/// How requests that publish are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signing {
    None,
    /// By the query of Pusher's HTTP API, with the values `key` and `secret` of `--set`.
    Pusher,
}

/// What publishers receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publishers {
    /// Nothing; a message is foreign.
    ReceiveNothing,
    /// The messages of others, or all; these are ignored.
    ReceiveMessages,
}

const RAW: Preset = Preset {
    path: "",
    publish_path: "",
    sub_query: "",
    pub_query: "",
    subprotocol: "",
    hello: &[],
    subscribe: "",
    acknowledgement: "",
    delivery: "",
    packing: Packing::Whole,
    replies: &[],
    ignored: &[],
    refusals: &[],
    publish: Publish::Message("{payload}"),
    publishers: Publishers::ReceiveMessages,
    is_binary: false,
};

const RINGHUB: Preset = Preset {
    path: "/t/{topic}",
    sub_query: "mode=sub",
    pub_query: "mode=pub",
    publishers: Publishers::ReceiveNothing,
    ..RAW
};

const NCHAN: Preset = Preset {
    path: "/sub?id={topic}",
    publish_path: "/pub?id={topic}",
    publish: Publish::Post { content_type: "text/plain", body: "{payload}", signing: Signing::None },
    publishers: Publishers::ReceiveNothing,
    ..RAW
};

const NATS: Preset = Preset {
    path: "/",
    hello: &[
        "await:INFO {any}",
        r#"send:CONNECT {"verbose":false,"pedantic":false,"lang":"loadgen","version":"1","protocol":1}\r\nPING\r\n"#,
        "await:PONG",
    ],
    subscribe: r"SUB {topic} {id}\r\nPING\r\n",
    acknowledgement: "PONG",
    delivery: "MSG {any} {payload}",
    packing: Packing::Nats,
    replies: &[("PING", r"PONG\r\n")],
    ignored: &["PONG", "+OK", "INFO {any}"],
    refusals: &["-ERR{any}"],
    publish: Publish::Message(r"PUB {topic} {size}\r\n{payload}\r\n"),
    is_binary: true,
    ..RAW
};

const SOCKETIO: Preset = Preset {
    path: "/socket.io/?EIO=4&transport=websocket",
    hello: &["await:0{any}", "send:40", "await:40{any}"],
    // The number after 42 asks for an acknowledgement, which has the same number after 43.
    subscribe: r#"420["subscribe","{topic}"]"#,
    acknowledgement: "430{any}",
    delivery: r#"42["message","{payload}"]"#,
    replies: &[("2", "3")],
    ignored: &["43{any}"],
    refusals: &["44{any}", "41{any}", "1"],
    publish: Publish::Message(r#"42["publish","{topic}","{payload}"]"#),
    ..RAW
};

const PUSHER: Preset = Preset {
    path: "/app/{key}?protocol=7&client=loadgen&version=1",
    publish_path: "/apps/{app}/events",
    hello: &["await:{any}pusher:connection_established{any}"],
    subscribe: r#"{"event":"pusher:subscribe","data":{"channel":"{topic}"}}"#,
    acknowledgement: "{any}pusher_internal:subscription_succeeded{any}",
    delivery: r#"{any}"data":"{payload}"{any}"#,
    replies: &[(r#"{any}"pusher:ping"{any}"#, r#"{"event":"pusher:pong","data":{}}"#)],
    ignored: &["{any}pusher_internal:{any}", r#"{any}"pusher:pong"{any}"#],
    refusals: &["{any}pusher:error{any}", "{any}pusher:subscription_error{any}"],
    publish: Publish::Post {
        content_type: "application/json",
        body: r#"{"name":"message","channels":["{topic}"],"data":"{payload}"}"#,
        signing: Signing::Pusher,
    },
    publishers: Publishers::ReceiveNothing,
    ..RAW
};

const CENTRIFUGE: Preset = Preset {
    path: "/connection/websocket",
    hello: &[r#"send:{"connect":{},"id":1}"#, r#"await:{"id":1,"connect":{any}"#],
    subscribe: r#"{"subscribe":{"channel":"{topic}"},"id":{id}}"#,
    acknowledgement: r#"{"id":{any},"subscribe":{any}"#,
    delivery: r#"{"push":{any}"data":"{payload}"{any}"#,
    packing: Packing::Lines,
    replies: &[("{}", "{}")],
    ignored: &[r#"{"id":{any},"publish":{any}"#],
    refusals: &[r#"{any}"error":{any}"#, r#"{"push":{"disconnect":{any}"#],
    publish: Publish::Message(r#"{"publish":{"channel":"{topic}","data":"{payload}"},"id":{id}}"#),
    ..RAW
};

impl PresetName {
    /// Returns the texts of this kind of server.
    pub(crate) fn preset(self) -> &'static Preset {
        match self {
            PresetName::Ringhub => &RINGHUB,
            PresetName::Ws | PresetName::Bun | PresetName::Kore => &RAW,
            PresetName::Nchan => &NCHAN,
            PresetName::Nats => &NATS,
            PresetName::Socketio => &SOCKETIO,
            PresetName::Pusher => &PUSHER,
            PresetName::Centrifuge => &CENTRIFUGE,
        }
    }
}
