//! The HTTP edge.

mod fault;
mod gate;
