//! One row as its op sees it. Every argument and input that the row holds must be asked for: what an op does
//! not know it would otherwise ignore in silence.

use crate::index::{Folder, Row, Values};
use crate::{Fallible, fail};
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use warpsmith::{Device, Tensor};

/// What an op computed.
#[derive(Debug)]
pub struct Output {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Output {
    pub fn new<T: Copy + Into<f64>>(shape: &[usize], data: &[T]) -> Output {
        Output { shape: shape.to_vec(), data: data.iter().map(|&v| v.into()).collect() }
    }

    pub fn scalar(value: impl Into<f64>) -> Output {
        Output { shape: vec![1], data: vec![value.into()] }
    }

    pub fn of(tensor: &Tensor) -> Fallible<Output> {
        Ok(Output::new(tensor.shape(), &tensor.read::<f32>()?))
    }
}

pub struct Case<'a> {
    pub folder: &'a Folder,
    pub file: &'a str,
    pub row: &'a Row,
    pub device: &'a Device,
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Case<'a> {
    pub fn new(folder: &'a Folder, file: &'a str, row: &'a Row, device: &'a Device) -> Self {
        Case { folder, file, row, device, asked: RefCell::default() }
    }

    fn ask(&self, name: &str) {
        self.asked.borrow_mut().insert(name.to_string());
    }

    /// Fails when the row holds an argument or input that nobody asked for.
    pub fn finish(&self) -> Fallible<()> {
        let asked = self.asked.borrow();
        let held = self.row.args.keys().chain(self.row.inputs.keys());
        let ignored: Vec<&String> = held.filter(|name| !asked.contains(*name)).collect();
        if ignored.is_empty() {
            return Ok(());
        }
        fail(format!("`{}` has no use for {ignored:?}", self.row.op))
    }

    pub fn has(&self, name: &str) -> bool {
        self.row.args.contains_key(name) || self.row.inputs.contains_key(name)
    }

    pub fn arg(&self, name: &str) -> Fallible<&'a Value> {
        self.ask(name);
        self.row.args.get(name).ok_or_else(|| format!("`{}` wants an arg `{name}`", self.row.op).into())
    }

    /// An argument of the type that the place wants.
    fn parsed<T: serde::de::DeserializeOwned>(&self, name: &str, what: &str) -> Fallible<T> {
        let value = self.arg(name)?;
        T::deserialize(value).map_err(|_| format!("arg `{name}`: expected {what}, got {value}").into())
    }

    pub fn number(&self, name: &str) -> Fallible<f64> {
        self.parsed(name, "a number")
    }

    pub fn numbers(&self, name: &str) -> Fallible<Vec<f64>> {
        self.parsed(name, "a list of numbers")
    }

    pub fn flag(&self, name: &str) -> Fallible<bool> {
        self.parsed(name, "true or false")
    }

    pub fn text(&self, name: &str) -> Fallible<String> {
        self.parsed(name, "a text")
    }

    pub fn texts(&self, name: &str) -> Fallible<Vec<String>> {
        self.parsed(name, "a list of texts")
    }

    /// A whole number; 3.0 is one.
    pub fn size(&self, name: &str) -> Fallible<usize> {
        whole(name, self.number(name)?)
    }

    pub fn sizes(&self, name: &str) -> Fallible<Vec<usize>> {
        self.numbers(name)?.into_iter().map(|v| whole(name, v)).collect()
    }

    /// A list of N whole numbers.
    pub fn extents<const N: usize>(&self, name: &str) -> Fallible<[u32; N]> {
        let sizes: Vec<u32> = self.sizes(name)?.into_iter().map(u32::try_from).collect::<Result<_, _>>()?;
        sizes.try_into().map_err(|got| format!("arg `{name}`: expected {N} numbers, got {got:?}").into())
    }

    /// `padding` [[top, bottom], [left, right]] as [top, bottom, left, right].
    pub fn pads(&self) -> Fallible<[u32; 4]> {
        let [[top, bottom], [left, right]] = self.parsed("padding", "[[top, bottom], [left, right]]")?;
        Ok([top, bottom, left, right])
    }

    /// Reads an argument that is only there to say how another one came about, and checks that it fits.
    pub fn explains(&self, name: &str, is: f64, should_be: f64) -> Fallible<()> {
        if (is - should_be).abs() <= 1e-6 * should_be.abs().max(1e-3) {
            return Ok(());
        }
        fail(format!("arg `{name}`: {is} does not agree with the other args, which give {should_be}"))
    }

    /// Reads an argument that the implementation holds constant, and fails when it asks for something else.
    pub fn constant(&self, name: &str, value: f64) -> Fallible<()> {
        let got = self.number(name)?;
        if got == value {
            return Ok(());
        }
        fail(format!("arg `{name}`: the implementation has {value} built in and cannot do {got}"))
    }

    /// As [`Case::constant`], for a text or a flag.
    pub fn only(&self, name: &str, value: Value) -> Fallible<()> {
        let got = self.arg(name)?;
        if *got == value {
            return Ok(());
        }
        fail(format!("arg `{name}`: the implementation does {value} only, not {got}"))
    }

    pub fn input(&self, name: &str) -> Fallible<&'a Values> {
        self.ask(name);
        let reference =
            self.row.inputs.get(name).ok_or_else(|| format!("`{}` wants an input `{name}`", self.row.op))?;
        self.folder.tensor(self.file, reference)
    }

    /// An input as an f32 tensor on the device.
    pub fn tensor(&self, name: &str) -> Fallible<Tensor> {
        let values = self.input(name)?;
        Ok(Tensor::from_slice(self.device, &values.shape, &values.f32s())?)
    }

    /// An input as pixels: u8 stays u8, all else is f32.
    pub fn pixels(&self, name: &str) -> Fallible<Tensor> {
        let values = self.input(name)?;
        match values.dtype {
            Dtype::U8 => Ok(Tensor::from_slice(self.device, &values.shape, &values.u8s()?)?),
            _ => self.tensor(name),
        }
    }

    /// Labels [n] or [n, 1] as an i32 tensor [n].
    pub fn labels(&self) -> Fallible<Tensor> {
        let labels = self.input("labels")?.i32s()?;
        Ok(Tensor::from_slice(self.device, &[labels.len()], &labels)?)
    }

    pub fn zeros(&self, shape: &[usize]) -> Fallible<Tensor> {
        Ok(Tensor::zeros(self.device, shape, warpsmith::DType::F32)?)
    }
}

fn whole(name: &str, value: f64) -> Fallible<usize> {
    if value >= 0.0 && value.fract() == 0.0 && value < 9e15 {
        return Ok(value as usize);
    }
    fail(format!("arg `{name}`: expected a whole number from 0 up, got {value}"))
}
