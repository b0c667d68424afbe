//! The four procedures.
