//! The engine without a driver around it: kernels with known answers, planted bugs, probes of single instructions.

mod bugs;
mod exact;
mod forms;
mod inventory;
mod known;
mod lanes;
mod moves;
mod parser;
mod patterns;
mod probes;
mod rig;
mod tensor;
mod twins;
