//! What became of entries at handlers: which events had their effect, which entries wait for another attempt or for a person,
//! and how far each handler has come. The rows alone; who does what is in `workers`.

pub mod cursors;
pub mod letters;
pub mod marks;
pub mod progress;
