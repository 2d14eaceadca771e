//! `asyncapi.json`: the conversation of a screen and a gateway, as AsyncAPI 3.0.
//!
//! AsyncAPI knows no Socket.IO, so three things are said by extensions: `x-arguments`, all arguments of a packet (the
//! payload is the first), `x-topics`, the table of topics, and `x-views`, who sees what.

use schemars::Schema;
use schemars::transform::{RemoveRefSiblings, Transform};
use serde_json::{Map, Value, json};

use super::json::{about, defs, envelope_of};
use super::packets::{ASKED, Asked, CONNECT, Described, TOLD, Told};
use super::{EventKind, printed, samples, text, value, word};
use crate::topic::{Narrows, TOPICS, TopicRow};
use crate::view::{Role, View};
use crate::wire::CHANNELS_MAX;

const DESCRIPTION: &str = "\
What a screen and a gateway of Tillwire say to each other over Socket.IO 5 (Engine.IO 4).

This document describes the application of the screen, the client: it *receives* events and *sends* what it asks.

There is one Socket.IO namespace, `/`. The screen connects with `auth`, a `Connect`; it should pass `auth` as a \
function, so that a reconnect sends a fresh token. The gateway answers with `ready`, or refuses with a \
`connect_error` whose `data` is a `Refused`. The other channels here are what a screen names in `Connect.channels`, \
in `join` and in `leave`: a topic, optionally narrowed. A channel hears what happens on every channel that it is a \
beginning of, so `sales` hears all outlets. A packet's name is the message's name, whatever channel it was heard on.

**Positions.** After its body, an event carries its position as the packet's last argument, and so do `ready`, \
`caught_up`, `snapshot` and `position`; no other packet to a screen ends in a string. `1041.2-9f3ac2d1` is event 2 of entry \
1041, an entry being all events of one transaction, whose chain hash begins with `9f3ac2d1`; `1041-9f3ac2d1` is the \
whole entry. A position is the event's id, the Socket.IO offset and an idempotency key at once, and it is opaque: keep \
the last one, and send it as `Connect.after` to hear exactly what followed it. The stock JavaScript client does so by \
itself. A position that cannot be served is answered with `snapshot_required`.

**Latest values.** A screen that reads slowly (it takes more than two seconds to receive 16 KB) is given only the newest \
event of each value in a topic with `latest_by` (see `x-topics`), in that event's own place; `merged` says how many \
earlier ones that this connection was not sent it stands for. Whatever the last position a screen has seen, what follows \
it brings the newest of everything. Of an entry then only some events may come: `of` still counts all of them. A screen \
that reads as fast as it is sent to is given everything, also when it comes back with a position.

**Views.** How much of an event's data a screen gets depends on its role: see `x-views`. Unknown packets and unknown \
fields are to be passed over: a later release may add them.";

/// The text of `asyncapi.json`.
pub fn document() -> String {
    let defs = defs();
    printed(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tillwire",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": env!("CARGO_PKG_LICENSE"), "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": { "gateway": server() },
        "channels": channels(),
        "operations": operations(),
        "components": {
            "messages": messages(&defs),
            "schemas": schemas(&defs),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The bearer token of the REST API, sent as `token` in `auth`, not as a header.",
            } },
        },
        "x-topics": TOPICS.iter().map(|row| (row.name.into(), value(row))).collect::<Map<_, _>>(),
        "x-channels-max": CHANNELS_MAX,
        "x-views": View::ALL.iter().map(|view| (word(view), view_of(&defs, *view))).collect::<Map<_, _>>(),
    }))
}

fn server() -> Value {
    json!({
        "host": "{host}",
        "pathname": "/socket.io/",
        "protocol": "wss",
        "protocolVersion": "13",
        "description": "Any gateway: Socket.IO over WebSocket, or over long-polling, which stock clients begin with.",
        "variables": { "host": { "default": "localhost", "description": "Where the hub is reached." } },
        "security": [reference("components/securitySchemes", "token")],
    })
}

/// How far a channel is narrowed: what its id and its address end with.
const WIDTHS: [(Narrows, &str, &str); 3] = [
    (Narrows::No, "", ""),
    (Narrows::Outlet, "AtOutlet", "/{outlet}"),
    (Narrows::Register, "AtRegister", "/{outlet}/{register}"),
];

/// The id and the address of every channel of a topic, the widest first.
fn widths(row: &TopicRow) -> impl Iterator<Item = (String, String)> {
    let narrowest = WIDTHS.iter().position(|(narrows, ..)| *narrows == row.narrows).unwrap_or_default();
    WIDTHS.iter().take(narrowest + 1).map(|(_, id, address)| (row.name.to_owned() + id, row.name.to_owned() + address))
}

fn channels() -> Value {
    let mut channels = Map::new();
    channels.insert(
        "connection".into(),
        json!({
            "address": "/",
            "title": "The connection",
            "description": "The Socket.IO namespace that everything travels in, and the packets that are not events.",
            "messages": references("components/messages", &connection_messages()),
            "bindings": { "ws": {
                "method": "GET",
                "query": { "type": "object", "required": ["EIO", "transport"], "properties": {
                    "EIO": { "type": "string", "const": "4" },
                    "transport": { "type": "string", "enum": ["websocket", "polling"] },
                } },
                "bindingVersion": "0.1.0",
            } },
        }),
    );
    for (row, (id, address)) in TOPICS.iter().flat_map(|row| widths(row).map(move |width| (row, width))) {
        let messages = references("components/messages", &brought(row));
        let mut channel = json!({ "address": address, "description": row.about, "messages": messages });
        for (name, about) in [("outlet", "An outlet's id."), ("register", "The id of a register of that outlet.")] {
            if address.contains(&format!("{{{name}}}")) {
                channel["parameters"][name] = json!({ "description": about });
            }
        }
        channels.insert(id, channel);
    }
    channels.into()
}

/// What the channels of a topic bring.
fn brought(row: &TopicRow) -> Vec<&'static str> {
    [row.events, row.topic.packets()].concat()
}

fn connection_messages() -> Vec<String> {
    let asked = ASKED.iter().chain([&CONNECT]);
    let mut names: Vec<String> = asked.clone().flat_map(|asked| asked.answers).map(|it| (it.name)().into()).collect();
    names.extend(asked.map(|asked| asked.name.into()));
    names.extend(TOLD.iter().map(|told| told.name.into()));
    names
}

fn operations() -> Value {
    let of = |channel: &str, names: &[&str]| {
        names.iter().map(|name| reference(&format!("channels/{channel}/messages"), name)).collect::<Value>()
    };
    let mut operations = Map::new();
    let sent = |asked: &Asked, about: &str, answers: &[&str]| {
        json!({
            "action": "send",
            "channel": reference("channels", "connection"),
            "summary": about,
            "messages": of("connection", &[asked.name]),
            "reply": { "channel": reference("channels", "connection"), "messages": of("connection", answers) },
        })
    };
    let connect = "Connects: the `auth` of a Socket.IO client, answered by `ready` or refused.";
    operations.insert(CONNECT.name.into(), sent(&CONNECT, connect, &["ready", "Refused"]));
    for asked in ASKED {
        let about = format!("Sends `{}`; the reply is its Socket.IO acknowledgement.", asked.name);
        let answers: Vec<_> = asked.answers.iter().map(|it| (it.name)()).collect();
        let answers: Vec<&str> = answers.iter().map(AsRef::as_ref).collect();
        operations.insert(asked.name.into(), sent(asked, &about, &answers));
    }
    let heard = |channel: &str, about: &str, names: &[&str]| {
        json!({
            "action": "receive",
            "channel": reference("channels", channel),
            "summary": about,
            "messages": of(channel, names),
        })
    };
    let told: Vec<&str> = TOLD.iter().map(|told| told.name).collect();
    operations
        .insert("hearConnection".into(), heard("connection", "What a gateway says of the connection itself.", &told));
    for (row, (id, address)) in TOPICS.iter().flat_map(|row| widths(row).map(move |width| (row, width))) {
        let name = format!("hear{}{}", id[..1].to_uppercase(), &id[1..]);
        operations.insert(name, heard(&id, &format!("Hears what happens on `{address}`."), &brought(row)));
    }
    operations.into()
}

fn messages(defs: &Map<String, Value>) -> Value {
    let schema = |name: &str| reference("components/schemas", name);
    let message = |name: &str, body: &str, about: String, then_position: bool| {
        let then = then_position.then(|| schema("Position"));
        let arguments: Vec<Value> = [schema(body)].into_iter().chain(then).collect();
        json!({ "name": name, "summary": about, "payload": schema(body), "x-arguments": arguments })
    };
    let mut messages = Map::new();
    for kind in EventKind::all() {
        let mut event = message(&kind.name, &envelope_of(&kind), about(defs, &kind.payload), true);
        let stored = samples::stored(&kind.sample);
        event["examples"] = json!([{ "name": "office", "payload": value(&samples::envelope(&stored, View::Office)) }]);
        event["x-least-view"] = value(&kind.sample.least_view());
        messages.insert(kind.name, event);
    }
    for Told { name, body, then_position } in TOLD {
        messages.insert((*name).into(), message(name, &(body.name)(), about(defs, &(body.name)()), *then_position));
    }
    for Asked { name, body, answers } in ASKED.iter().chain([&CONNECT]) {
        messages.insert((*name).into(), message(name, &(body.name)(), about(defs, &(body.name)()), false));
        for answer in answers.iter().map(|Described { name, .. }| name()) {
            messages.insert(answer.clone().into(), message(&answer, &answer, about(defs, &answer), false));
        }
    }
    messages.into()
}

/// The schemas in AsyncAPI's own dialect, a superset of JSON Schema's draft 7, which allows nothing beside a `$ref`.
fn schemas(defs: &Map<String, Value>) -> Value {
    fn moved(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(path)) = fields.get_mut("$ref") {
                    *path = path.replacen("#/$defs/", "#/components/schemas/", 1);
                }
                fields.values_mut().for_each(moved);
            }
            Value::Array(items) => items.iter_mut().for_each(moved),
            _ => {}
        }
    }
    let mut schemas = Map::new();
    for (name, schema) in defs {
        let mut schema = Schema::try_from(schema.clone()).expect("a definition is a schema");
        RemoveRefSiblings::default().transform(&mut schema);
        let mut schema = schema.to_value();
        moved(&mut schema);
        schemas.insert(name.clone(), schema);
    }
    schemas.into()
}

/// Whose view it is, and what it sees of each event that it hears: the listed fields, or with `null` all of them.
fn view_of(defs: &Map<String, Value>, view: View) -> Value {
    let choices = defs["View"]["oneOf"].as_array().into_iter().flatten();
    let choice = choices.clone().find(|choice| choice["const"] == word(&view));
    let kinds = EventKind::all();
    let heard = kinds.iter().filter(|kind| kind.views().any(|it| it == view));
    json!({
        "description": choice.map(|choice| text(&choice["description"])),
        "roles": Role::ALL.iter().filter(|role| role.view() == view).collect::<Vec<_>>(),
        "shows_actor": view.shows_actor(),
        "events": heard.map(|kind| (kind.name.clone(), value(&view.fields(&kind.name)))).collect::<Map<_, _>>(),
    })
}

fn reference(to: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/{to}/{name}") })
}

fn references(to: &str, names: &[impl AsRef<str>]) -> Value {
    names.iter().map(|name| (name.as_ref().to_owned(), reference(to, name.as_ref()))).collect::<Map<_, _>>().into()
}
