//! The training loop: batches, epochs, callbacks, checkpoints, histories, evaluation and pictures.

pub mod callbacks;
pub mod evaluate;
pub mod fit;
pub mod history;
pub mod loader;
pub mod plot;
#[cfg(feature = "cuda")]
mod resident;
pub mod robustness;
pub mod session;

pub use callbacks::{EarlyStopping, Monitor, ReduceLrOnPlateau, StopDecision};
pub use evaluate::{Evaluation, evaluate, recompute_statistics};
pub use fit::{FinishFn, Fit, ForwardFn, StepOutput, ValidateFn, fit};
pub use history::{EpochRecord, RunRecord};
pub use loader::{Augmented, Batch, Loader};
pub use robustness::{CorruptionRow, CorruptionSource, Robustness};
pub use session::{Observer, Quiet, Session, StepReport, StopFlag};
