//! Connectors: the words of outside systems, and ours. A connector verifies, translates and says what to call; it holds no
//! rule of commerce and no SQL.

pub mod credentials;
