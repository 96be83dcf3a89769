//! Against real stores (`mod`), and against one that fails on cue (`faults`).

mod fake;
mod faults;
