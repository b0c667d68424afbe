//! The emulator: a CUDA driver that runs, checks and counts PTX on the CPU. Nothing of it exists in this version.
