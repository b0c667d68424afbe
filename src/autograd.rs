//! The tape: ops record closures, `backward` walks them once.
//!
//! A [`Var`] is a tensor plus its place on a [`Tape`]. An op computes its output and records how to turn
//! the output's gradient into its inputs' gradients; the closure owns whatever it needs for that.
//! [`Var::backward`] calls the closures from last to first, dropping each (and the activations it
//! saved) as it goes. There is no central list of ops: anybody can write one with [`Var::record`].

use crate::dtype::DType;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

type Backward = Box<dyn FnOnce(Tensor, &mut Gradients) -> Result<()>>;

/// A record of the ops of one forward pass. Clones are the same tape.
#[derive(Clone)]
pub struct Tape {
    nodes: Option<Rc<RefCell<Nodes>>>,
}

#[derive(Default)]
struct Nodes {
    list: Vec<Node>,
    walked: bool,
}

enum Node {
    /// An input whose gradient is kept: in the given accumulator, or in a tensor of its own.
    Leaf(Option<Tensor>),
    Op(Backward),
    /// Already walked.
    Done,
}

/// Where on its tape a [`Var`] stands: what a backward closure keeps to name its inputs.
pub type NodeId = Option<usize>;

/// A tensor that remembers how it was computed.
#[derive(Clone)]
pub struct Var {
    tensor: Tensor,
    tape: Tape,
    node: NodeId,
}

impl Tape {
    /// A tape that records.
    pub fn new() -> Tape {
        Tape { nodes: Some(Rc::default()) }
    }

    /// A tape that records nothing: ops on its variables keep no activations and have no gradients.
    pub fn no_grad() -> Tape {
        Tape { nodes: None }
    }

    /// Whether ops are recorded.
    pub fn is_recording(&self) -> bool {
        self.nodes.is_some()
    }

    /// Number of recorded nodes.
    pub fn len(&self) -> usize {
        self.nodes.as_ref().map_or(0, |nodes| nodes.borrow().list.len())
    }

    /// Whether nothing has been recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both record on the same list.
    fn is(&self, other: &Tape) -> bool {
        matches!((&self.nodes, &other.nodes), (Some(a), Some(b)) if Rc::ptr_eq(a, b))
    }

    fn push(&self, node: Node) -> NodeId {
        let mut nodes = self.nodes.as_ref()?.borrow_mut();
        nodes.list.push(node);
        Some(nodes.list.len() - 1)
    }

    /// An input that needs no gradient.
    pub fn constant(&self, tensor: Tensor) -> Var {
        Var { tensor, tape: self.clone(), node: None }
    }

    /// An input whose gradient [`Var::backward`] returns.
    pub fn leaf(&self, tensor: Tensor) -> Var {
        Var { node: self.push(Node::Leaf(None)), tensor, tape: self.clone() }
    }

    /// An input whose gradient is added (`+=`) to `accumulator`: a parameter and its place in the gradient arena.
    ///
    /// # Errors
    /// When the two differ in shape or device, or in type, unless the accumulator is f32: the gradient of a bf16 factor is.
    pub fn parameter(&self, tensor: Tensor, accumulator: Tensor) -> Result<Var> {
        let same = tensor.shape() == accumulator.shape()
            && (tensor.dtype() == accumulator.dtype() || accumulator.dtype() == DType::F32)
            && tensor.device() == accumulator.device();
        if !same {
            return Err(Error::tensor(
                "Tape::parameter",
                &tensor,
                &accumulator,
                "a gradient has its parameter's shape and device, and its type or f32",
            ));
        }
        Ok(Var { node: self.push(Node::Leaf(Some(accumulator))), tensor, tape: self.clone() })
    }
}

impl Default for Tape {
    fn default() -> Self {
        Tape::new()
    }
}

impl Var {
    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The value alone, letting go of the tape.
    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// The extents of the value.
    pub fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    /// The tape it was made on.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Its place on the tape; `None` when no gradient flows to it.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The same value, cut off from the tape: gradients stop here.
    pub fn detach(&self) -> Var {
        self.tape.constant(self.tensor.clone())
    }

    /// Records an op: `output` was computed from `inputs`, and `backward` turns the output's gradient
    /// into theirs. When no input needs a gradient the closure is dropped at once and nothing is recorded.
    ///
    /// The closure gets the output's gradient and a [`Gradients`]; it names its inputs by [`Var::node`].
    ///
    /// # Errors
    /// When the inputs come from different tapes.
    pub fn record(
        op: &'static str,
        inputs: &[&Var],
        output: Tensor,
        backward: impl FnOnce(Tensor, &mut Gradients) -> Result<()> + 'static,
    ) -> Result<Var> {
        let Some(first) = inputs.iter().find(|v| v.node.is_some()).or(inputs.first()) else {
            return Err(Error::argument(op, "at least one input", 0, "an op without inputs is a constant"));
        };
        for other in inputs.iter().filter(|v| v.node.is_some()) {
            if !first.tape.is(&other.tape) {
                return Err(Error::argument(
                    op,
                    "inputs of one tape",
                    "inputs of two tapes",
                    "make all variables of a step on one tape",
                ));
            }
        }
        let tape = first.tape.clone();
        let node = if first.node.is_some() { tape.push(Node::Op(Box::new(backward))) } else { None };
        Ok(Var { tensor: output, tape, node })
    }

    /// Walks the tape backwards from this scalar and returns the gradients of the leaves.
    ///
    /// # Errors
    /// When the value is not a single f32, no gradient flows to it, or the tape was already walked.
    ///
    /// # Example
    /// ```
    /// use warpsmith::{Device, Tape, Tensor, ops};
    /// let device = Device::cpu()?;
    /// let tape = Tape::new();
    /// let x = tape.leaf(Tensor::from_slice(&device, &[1, 2], &[3.0f32, -1.0])?);
    /// let loss = ops::sum(&ops::relu(&x)?)?;
    /// let gradients = loss.backward()?;
    /// assert_eq!(gradients.get(&x)?.to_vec::<f32>()?, [1.0, 0.0]);
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn backward(&self) -> Result<Gradients> {
        if self.tensor.elems() != 1 || self.tensor.dtype() != DType::F32 {
            return Err(Error::tensor(
                "backward",
                "a single f32",
                &self.tensor,
                "reduce to a scalar loss, or use backward_with",
            ));
        }
        self.backward_with(Tensor::full(self.tensor.device(), self.tensor.shape(), 1.0f32)?)
    }

    /// Walks the tape backwards from this variable with the given gradient of its value.
    ///
    /// # Errors
    /// When shapes differ, no gradient flows to it, or the tape was already walked.
    pub fn backward_with(&self, dy: Tensor) -> Result<Gradients> {
        let (Some(nodes), Some(root)) = (&self.tape.nodes, self.node) else {
            return Err(Error::argument(
                "backward",
                "a value computed from leaves or parameters on a recording tape",
                "a value without gradient",
                "use Tape::new() and let at least one input need a gradient",
            ));
        };
        if dy.shape() != self.tensor.shape() || dy.dtype() != self.tensor.dtype() {
            return Err(Error::tensor("backward", &self.tensor, &dy, "the gradient has the value's shape and type"));
        }
        let count = {
            let mut nodes = nodes.borrow_mut();
            if std::mem::replace(&mut nodes.walked, true) {
                return Err(Error::argument(
                    "backward",
                    "a fresh tape",
                    "a tape that was already walked",
                    "run the forward pass again on a new tape",
                ));
            }
            nodes.list.len()
        };
        let mut gradients = Gradients { tape: self.tape.clone(), slots: Vec::new() };
        gradients.slots.resize_with(count, || Slot::Empty);
        for (slot, node) in gradients.slots.iter_mut().zip(&nodes.borrow().list) {
            if let Node::Leaf(Some(accumulator)) = node {
                *slot = Slot::Accumulator(accumulator.clone());
            }
        }
        gradients.add(Some(root), dy)?;
        for id in (0..count).rev() {
            let node = std::mem::replace(&mut nodes.borrow_mut().list[id], Node::Done);
            if let Node::Op(backward) = node
                && let Slot::Tensor(dy) = std::mem::replace(&mut gradients.slots[id], Slot::Empty)
            {
                backward(dy, &mut gradients)?;
            }
        }
        Ok(gradients)
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Var({}, node {:?})", self.tensor, self.node)
    }
}

/// Gradients during and after a backward walk.
pub struct Gradients {
    tape: Tape,
    slots: Vec<Slot>,
}

enum Slot {
    Empty,
    Tensor(Tensor),
    /// Memory that outlives the walk and is added to: a view of the gradient arena.
    Accumulator(Tensor),
}

/// Where an op should put an input's gradient.
pub struct Target {
    /// The tensor to write.
    pub tensor: Tensor,
    /// Whether to add (`+=`) to what is there, or to overwrite (`=`).
    pub accumulate: bool,
}

impl Gradients {
    /// The gradient of a leaf.
    ///
    /// # Errors
    /// When no gradient reached it, or it belongs to another tape.
    pub fn get(&self, var: &Var) -> Result<&Tensor> {
        match var.node.filter(|_| self.tape.is(&var.tape)).and_then(|id| self.slots.get(id)) {
            Some(Slot::Tensor(t) | Slot::Accumulator(t)) => Ok(t),
            _ => Err(Error::argument(
                "Gradients::get",
                "a leaf that the loss depends on",
                format_args!("{var:?}"),
                "make it with Tape::leaf and use it in the loss",
            )),
        }
    }

    /// Adds a finished gradient to an input; does nothing when the input needs none.
    ///
    /// # Errors
    /// When shapes or types differ from an earlier contribution.
    pub fn add(&mut self, id: NodeId, gradient: Tensor) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        match &self.slots[id] {
            Slot::Empty => self.slots[id] = Slot::Tensor(gradient),
            Slot::Accumulator(sum) => crate::ops::add_assign(sum, &gradient)?,
            Slot::Tensor(_) => {
                let target = self.target(Some(id), gradient.shape(), &gradient)?;
                if let Some(Target { tensor, .. }) = target {
                    crate::ops::add_assign(&tensor, &gradient)?;
                }
            }
        }
        Ok(())
    }

    /// Where to write an input's gradient, for ops that can either overwrite or add; `None` when the
    /// input needs no gradient. `like` says type and device.
    ///
    /// Write to it before asking for another input's: the two inputs may be one variable.
    ///
    /// # Errors
    /// When memory runs out or the shape differs from an earlier contribution.
    pub fn target(&mut self, id: NodeId, shape: &[usize], like: &Tensor) -> Result<Option<Target>> {
        self.target_of(id, shape, like, like.dtype())
    }

    fn target_of(&mut self, id: NodeId, shape: &[usize], like: &Tensor, dtype: DType) -> Result<Option<Target>> {
        let Some(id) = id else { return Ok(None) };
        let (tensor, accumulate) = match &self.slots[id] {
            Slot::Empty => (Tensor::empty(like.device(), shape, dtype)?, false),
            Slot::Accumulator(sum) => return Ok(Some(Target { tensor: sum.clone(), accumulate: true })),
            // Another variable may share this gradient (add passes the same tensor to both inputs).
            Slot::Tensor(sum) if sum.is_unique() => (sum.clone(), true),
            Slot::Tensor(sum) => (sum.duplicate()?, true),
        };
        if tensor.shape() != shape {
            return Err(Error::shape(
                "backward",
                format_args!("a gradient of shape {shape:?}"),
                format_args!("{:?}", tensor.shape()),
                "an op passed back a wrong shape",
            ));
        }
        self.slots[id] = Slot::Tensor(tensor.clone());
        Ok(Some(Target { tensor, accumulate }))
    }

    /// The sum, in f32, that an op adds (`+=`) a parameter-like gradient to; `None` when the input needs none.
    ///
    /// # Errors
    /// As [`Gradients::target`].
    pub fn accumulator(&mut self, id: NodeId, shape: &[usize], like: &Tensor) -> Result<Option<Tensor>> {
        let Some(Target { tensor, accumulate }) = self.target_of(id, shape, like, DType::F32)? else { return Ok(None) };
        if !accumulate {
            tensor.zero()?;
        }
        Ok(Some(tensor))
    }
}
