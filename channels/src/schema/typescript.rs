//! `tillwire.ts`: every type that travels, for `socket.io-client`'s `Socket<ServerEvents, ClientEvents>`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use ts_rs::{Config, TS, TypeVisitor};

use super::packets::{self, ASKED, Described, TOLD};
use super::{EventKind, value, word};
use crate::envelope::Envelope;
use crate::event::Event;
use crate::topic::TOPICS;
use crate::view::{Role, View};
use crate::wire::CHANNELS_MAX;

const HEAD: &str = r#"// Generated from the crate `channels`; `bin/test --fix` writes it anew.
//
//   const socket: Socket<ServerEvents<"till">, ClientEvents> = io(url, {
//     auth: async (send) => send({ token: await freshToken(), channels: ["sales"] } satisfies Connect),
//   });
//   socket.on("sale.completed", (event, position) => show(event.data.number));

"#;

const EVENTS: &str = r#"/** A type of event. */
export type EventType = keyof Payloads;

/** The types of event that a view hears. */
export type Heard<V extends View = "office"> = keyof (typeof VIEWS)[V] & EventType;

/** What a view sees of an event's data. */
export type Data<T extends EventType, V extends View = "office"> = T extends keyof (typeof VIEWS)[V]
  ? (typeof VIEWS)[V][T] extends readonly (infer Path extends string)[]
    ? Shown<Payloads[T], Path>
    : Payloads[T]
  : never;

/** What is left of `T` when only some paths are shown. A path into a list applies to each of its items. */
export type Shown<T, Path extends string> = T extends readonly (infer Item)[]
  ? Shown<Item, Path>[]
  : T extends object
    ? { [K in keyof T as K extends Path | Head<Path> ? K : never]: K extends Path ? T[K] : Shown<T[K], Tail<Path, K>> }
    : T;

type Head<Path extends string> = Path extends `${infer Name}.${string}` ? Name : Path;
type Tail<Path extends string, K> = Path extends `${K & string}.${infer Rest}` ? Rest : never;

/** Any event that a view hears, told apart by `type`. */
export type AnyEnvelope<V extends View = "office"> = { [T in Heard<V>]: Envelope<T, V> }[Heard<V>];

/** What a gateway sends to a screen: each event under its type, with its position, and the other packets. */
export type ServerEvents<V extends View = "office"> = Packets & {
  [T in Heard<V>]: (event: Envelope<T, V>, position: Position) => void;
};

/** A family of events; alone, or narrowed as in `stock/{outlet}`, it names a channel. */
export type Topic = keyof typeof TOPICS;
"#;

/// The text of `tillwire.ts`.
pub fn document() -> String {
    let mut types = Types::new();
    // An event travels as an envelope, whose data depends on type and view: only what it mentions is declared.
    Event::visit_dependencies(&mut types);
    types.visit::<Envelope<'static>>();
    types.visit::<Role>();
    types.visit::<View>();
    packets::written().chain(packets::read()).for_each(|it| (it.typescript)(&mut types));
    types.rename("Envelope", "Envelope<T extends EventType = EventType, V extends View = \"office\">");
    let declared: Vec<String> = types.declared.into_values().collect();
    [HEAD.into(), declared.join("\n"), packets(), payloads(), views(), topics(), EVENTS.into()]
        .join("\n")
        .replace("\n\n\n", "\n\n")
}

/// Declarations by name, gathered with everything that they mention.
pub struct Types {
    config: Config,
    declared: BTreeMap<String, String>,
}

impl Types {
    fn new() -> Self {
        Self { config: Config::new().with_large_int("number"), declared: BTreeMap::new() }
    }

    fn rename(&mut self, name: &str, to: &str) {
        let declaration = self.declared.get_mut(name).expect("only what is declared is renamed");
        *declaration = declaration.replacen(&format!("interface {name}"), &format!("interface {to}"), 1);
    }
}

impl TypeVisitor for Types {
    fn visit<T: TS + 'static + ?Sized>(&mut self) {
        let name = T::ident(&self.config);
        // What has no path of its own is TypeScript's: string, number, arrays.
        if T::output_path().is_none() || self.declared.contains_key(&name) {
            return;
        }
        let docs = one_line(&T::docs().unwrap_or_default());
        self.declared.insert(name, docs + &declaration(&T::decl(&self.config)));
        T::visit_dependencies(self);
    }
}

/// `type Tender = { payment: PaymentId, … };` as an interface with a line for each field.
fn declaration(decl: &str) -> String {
    let object = decl.strip_prefix("type ").and_then(|rest| rest.strip_suffix("};")?.split_once(" = {"));
    let Some((name, fields)) = object.and_then(|(name, inner)| Some((name, fields(inner)?))) else {
        return format!("export {decl}\n");
    };
    let fields = fields.into_iter().fold(String::new(), |text, field| {
        let (docs, field) = field.rsplit_once("*/").map_or(("", field), |(docs, field)| (docs, field.trim()));
        let docs = if docs.is_empty() { String::new() } else { one_line(&format!("{docs}*/")) };
        text + &docs.lines().map(|line| format!("  {line}\n")).collect::<String>() + &format!("  {field};\n")
    });
    format!("export interface {name} {{\n{fields}}}\n")
}

/// The fields of an object type, each with the comment before it: parted by the commas that nothing encloses.
/// `None` if it was not one object, but a union that begins and ends with one.
fn fields(inner: &str) -> Option<Vec<&str>> {
    let (mut fields, mut from, mut depth, mut comment) = (vec![], 0, 0_u32, false);
    for (at, letter) in inner.char_indices() {
        match letter {
            '/' if inner[at..].starts_with("/*") => comment = true,
            '/' if inner[..at].ends_with('*') => comment = false,
            _ if comment => {}
            '{' | '[' | '(' | '<' => depth += 1,
            '}' | ']' | ')' | '>' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                fields.push(inner[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    fields.push(inner[from..].trim());
    fields.retain(|field| !field.is_empty());
    Some(fields)
}

/// A comment of one sentence on one line; a longer one as it is.
fn one_line(docs: &str) -> String {
    let lines: Vec<&str> = docs.lines().collect();
    match lines[..] {
        ["/**", line, " */"] => format!("/** {} */\n", line.trim_start_matches(" * ")),
        [] => String::new(),
        _ => docs.trim_end().to_owned() + "\n",
    }
}

fn packets() -> String {
    let mut text = String::from("\n/** What a gateway sends besides events. */\nexport interface Packets {\n");
    for told in TOLD {
        let position = if told.then_position { ", position: Position" } else { "" };
        let _ = writeln!(text, "  {}: (body: {}{position}) => void;", told.name, (told.body.name)());
    }
    text += "}\n\n/** What a screen sends, each with an acknowledgement. */\nexport interface ClientEvents {\n";
    for asked in ASKED {
        let answers: Vec<_> = asked.answers.iter().map(|Described { name, .. }| name()).collect();
        let (name, body, answers) = (asked.name, (asked.body.name)(), answers.join(" | "));
        let _ = writeln!(text, "  {name}: (body: {body}, acknowledge: (answer: {answers}) => void) => void;");
    }
    text += "}\n\n/** The most channels that one screen may have joined. */\n";
    text + &format!("export const CHANNELS_MAX = {CHANNELS_MAX};\n")
}

fn payloads() -> String {
    let line = |kind: &EventKind| format!("  \"{}\": {};\n", kind.name, kind.payload);
    let fields: String = EventKind::all().iter().map(line).collect();
    let about = "/** The data of every type of event, whole, as the office sees it. */";
    format!("{about}\nexport interface Payloads {{\n{fields}}}\n")
}

const VIEWS_HEAD: &str = "\
/** What each view hears, and which fields of an event's data it sees: the listed ones, or with `null` all. */
export const VIEWS = {
";

fn views() -> String {
    let mut text = String::from(VIEWS_HEAD);
    for view in View::ALL {
        let _ = writeln!(text, "  {}: {{", word(view));
        for kind in EventKind::all().iter().filter(|kind| kind.views().any(|it| it == *view)) {
            let _ = writeln!(text, "    \"{}\": {},", kind.name, literal(&value(&view.fields(&kind.name))));
        }
        text += "  },\n";
    }
    text + "} as const;\n"
}

const TOPICS_HEAD: &str = r"/**
 * The table of topics: what happens in each, what a snapshot of it holds, the fields by which only the latest
 * value counts, how far its channels narrow, and who may join.
 */
export const TOPICS = {
";

fn topics() -> String {
    let mut text = String::from(TOPICS_HEAD);
    for row in TOPICS {
        let _ = writeln!(text, "  {}: {{", row.name);
        let fields: BTreeMap<String, Value> = serde_json::from_value(value(row)).unwrap_or_default();
        for (name, value) in fields.iter().filter(|(name, _)| *name != "name") {
            let _ = writeln!(text, "    {name}: {},", literal(value));
        }
        text += "  },\n";
    }
    text + "} as const;\n"
}

/// A value as TypeScript writes it: JSON, with room between the items of a list.
fn literal(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
