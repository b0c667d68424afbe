//! The tolerance kinds of INDEX.md. `x` is the tested value, `r` the stored one; a NaN never passes.

use crate::{Fallible, fail};
use serde::Deserialize;
use serde_json::{Map, Value};

/// One alternative of a row's `tol`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tolerance {
    /// Every value equal; 0 and -0 are.
    Exact {},
    /// max |x - r| <= value.
    Abs { value: f64 },
    /// |x - r| <= value * |r| for every element.
    Rel { value: f64 },
    /// max |x - r| <= value * max |r|.
    RelMax { value: f64 },
    /// The same for every index of the first axis.
    RelMaxRow { value: f64 },
    /// ‖x - r‖ <= value * ‖r‖.
    RelL2 { value: f64 },
    /// |x - r| > value on at most the share `max_frac` of the values.
    FracDiff { value: f64, max_frac: f64 },
    /// mean |x - r| <= value.
    MeanAbs { value: f64 },
    /// All of the list hold.
    All { of: Vec<Tolerance> },
    /// Rows of statistics: see [`StatRows`].
    PerRowRelL2(StatRows),
}

/// Judges rows (sum, L2 norm N, first 8 values) of tensors with `args.sizes` elements.
///
/// Row i with its relative tolerance t passes when the norm is within `t·N·norm_factor`, the sum within
/// `t·N·min(√size, sum_factor)`, and the L2 distance of the 8 values within `t·N·min(1, first8_factor·√(8/size))`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatRows {
    /// t of every row; or
    value: Option<f64>,
    /// t = times * from[i] + plus, `from` being a tensor of the file.
    from: Option<String>,
    times: Option<f64>,
    plus: Option<f64>,
    /// "abs": all ten numbers of the rows that `args.zero_rows` names are at most `zero_abs` in magnitude.
    zero_rows: Option<String>,
    zero_abs: Option<f64>,
    norm_factor: Option<f64>,
    sum_factor: f64,
    first8_factor: f64,
}

/// What a tolerance looks at.
pub struct Comparison<'a> {
    pub x: &'a [f64],
    pub r: &'a [f64],
    pub shape: &'a [usize],
    pub args: &'a Map<String, Value>,
    /// Finds the tensor that a `from` names.
    pub tensor: &'a dyn Fn(&str) -> Fallible<Vec<f64>>,
}

fn diff(x: f64, r: f64) -> f64 {
    // Equal infinities differ by nothing.
    if x == r { 0.0 } else { (x - r).abs() }
}

/// The largest number; NaN if there is one.
fn max(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// `None` when `got <= bound`, else what was exceeded; NaN exceeds everything.
fn miss(what: &str, got: f64, bound: f64) -> Option<String> {
    (got.is_nan() || got > bound).then(|| format!("{what} {got:.3e} > {bound:.3e}"))
}

impl Tolerance {
    /// `None` when the tolerance holds, else what was exceeded.
    ///
    /// # Errors
    /// When the row does not say enough to judge it.
    pub fn miss(&self, c: &Comparison) -> Fallible<Option<String>> {
        if c.x.len() != c.r.len() {
            return fail(format!("{} values against {} stored ones", c.x.len(), c.r.len()));
        }
        let pairs = || c.x.iter().copied().zip(c.r.iter().copied());
        let diffs = || pairs().map(|(x, r)| diff(x, r));
        Ok(match self {
            Tolerance::Exact {} => {
                let differing = pairs().filter(|(x, r)| x != r).count();
                (differing > 0).then(|| format!("{differing} of {} differ, by up to {:.3e}", c.x.len(), max(diffs())))
            }
            Tolerance::Abs { value } => miss("max |x-r|", max(diffs()), *value),
            Tolerance::Rel { value } => {
                let worst = pairs().find(|&(x, r)| !matches_rel(x, r, *value));
                worst.map(|(x, r)| format!("|{x} - {r}| > {value:e}·|r|"))
            }
            Tolerance::RelMax { value } => rel_max("", c.x, c.r, *value),
            Tolerance::RelMaxRow { value } => {
                let rows = c.shape.first().copied().unwrap_or(1).max(1);
                let row = c.x.len() / rows;
                (0..rows).find_map(|i| {
                    let range = i * row..(i + 1) * row;
                    rel_max(&format!("row {i}: "), &c.x[range.clone()], &c.r[range], *value)
                })
            }
            Tolerance::RelL2 { value } => miss("‖x-r‖", norm(diffs()), value * norm(c.r.iter().copied())),
            Tolerance::FracDiff { value, max_frac } => {
                let over = diffs().filter(|d| d.is_nan() || d > value).count();
                miss(&format!("share of |x-r| > {value}"), over as f64 / c.x.len().max(1) as f64, *max_frac)
            }
            Tolerance::MeanAbs { value } => miss("mean |x-r|", diffs().sum::<f64>() / c.x.len().max(1) as f64, *value),
            Tolerance::All { of } => {
                for tolerance in of {
                    if let Some(why) = tolerance.miss(c)? {
                        return Ok(Some(why));
                    }
                }
                None
            }
            Tolerance::PerRowRelL2(rows) => rows.miss(c)?,
        })
    }
}

fn matches_rel(x: f64, r: f64, value: f64) -> bool {
    diff(x, r) <= value * r.abs()
}

fn rel_max(prefix: &str, x: &[f64], r: &[f64], value: f64) -> Option<String> {
    let diffs = x.iter().zip(r).map(|(&x, &r)| diff(x, r));
    miss(&format!("{prefix}max |x-r|"), max(diffs), value * max(r.iter().map(|r| r.abs())))
}

fn names(args: &Map<String, Value>, key: &str) -> Fallible<Vec<String>> {
    Ok(serde_json::from_value(args.get(key).cloned().ok_or_else(|| format!("no arg `{key}`"))?)?)
}

impl StatRows {
    fn miss(&self, c: &Comparison) -> Fallible<Option<String>> {
        let sizes: Vec<f64> = serde_json::from_value(c.args.get("sizes").cloned().ok_or("no arg `sizes`")?)?;
        let rows = names(c.args, "rows")?;
        if c.shape != [rows.len(), 10] || sizes.len() != rows.len() {
            return fail(format!("{} rows and {} sizes for shape {:?}", rows.len(), sizes.len(), c.shape));
        }
        let relative = match (self.value, &self.from, self.times, self.plus) {
            (Some(value), None, None, None) => vec![value; rows.len()],
            (None, Some(from), Some(times), Some(plus)) => {
                (c.tensor)(from)?.iter().map(|from| times * from + plus).collect()
            }
            _ => return fail("per_row_rel_l2 wants either `value`, or `from`, `times` and `plus`"),
        };
        if relative.len() != rows.len() {
            return fail(format!("{} tolerances for {} rows", relative.len(), rows.len()));
        }
        let zero_rows = if c.args.contains_key("zero_rows") { names(c.args, "zero_rows")? } else { Vec::new() };
        if let Some(stranger) = zero_rows.iter().find(|name| !rows.contains(name)) {
            return fail(format!("zero row `{stranger}` is not among the rows"));
        }
        let zero_abs = match (self.zero_rows.as_deref(), self.zero_abs) {
            (Some("abs"), Some(bound)) => Some(bound),
            (None, None) => None,
            other => return fail(format!("zero_rows and zero_abs are {other:?}")),
        };
        for (i, name) in rows.iter().enumerate() {
            let (x, r) = (&c.x[i * 10..][..10], &c.r[i * 10..][..10]);
            let why = if zero_rows.contains(name) {
                let bound = zero_abs.ok_or("zero rows without a tolerance for them")?;
                miss("magnitude of a zero gradient", max(x.iter().map(|x| x.abs())), bound)
            } else {
                let (n, scale) = (sizes[i], relative[i] * r[1]);
                let first8 = norm(x[2..].iter().zip(&r[2..]).map(|(&x, &r)| diff(x, r)));
                miss("norm off by", diff(x[1], r[1]), scale * self.norm_factor.unwrap_or(1.0))
                    .or_else(|| miss("sum off by", diff(x[0], r[0]), scale * n.sqrt().min(self.sum_factor)))
                    .or_else(|| {
                        miss("first 8 off by", first8, scale * (self.first8_factor * (8.0 / n).sqrt()).min(1.0))
                    })
            };
            if let Some(why) = why {
                return Ok(Some(format!("{name}: {why}")));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NAN: f64 = f64::NAN;

    fn holds_with(tol: Value, shape: &[usize], x: &[f64], r: &[f64], args: Value) -> Fallible<bool> {
        let tolerance: Tolerance = serde_json::from_value(tol)?;
        let args = args.as_object().cloned().unwrap_or_default();
        let tensor = |name: &str| if name == "err" { Ok(vec![0.01, -1.0]) } else { fail("no such tensor") };
        let comparison = Comparison { x, r, shape, args: &args, tensor: &tensor };
        Ok(tolerance.miss(&comparison)?.is_none())
    }

    fn holds(tol: Value, x: &[f64], r: &[f64]) -> bool {
        holds_with(tol, &[x.len()], x, r, Value::Null).unwrap()
    }

    #[test]
    fn exact_accepts_the_sign_of_zero_and_nothing_else() {
        let tol = json!({"kind": "exact"});
        assert!(holds(tol.clone(), &[1.0, -0.0], &[1.0, 0.0]));
        assert!(!holds(tol.clone(), &[1.0, 1e-300], &[1.0, 0.0]));
        assert!(!holds(tol, &[NAN], &[NAN]));
    }

    #[test]
    fn abs_bounds_the_largest_difference() {
        let tol = json!({"kind": "abs", "value": 0.5});
        assert!(holds(tol.clone(), &[1.5, -1.0], &[1.0, -1.5]));
        assert!(!holds(tol.clone(), &[1.0, -1.0], &[1.0, -1.6]));
        assert!(!holds(tol, &[NAN, 1.0], &[1.0, 1.0]));
    }

    #[test]
    fn rel_bounds_every_element_by_itself() {
        let tol = json!({"kind": "rel", "value": 0.1});
        assert!(holds(tol.clone(), &[105.0, 0.0, f64::INFINITY], &[100.0, 0.0, f64::INFINITY]));
        assert!(!holds(tol.clone(), &[105.0, 1.2], &[100.0, 1.0]));
        assert!(!holds(tol.clone(), &[1e-30], &[0.0]));
        assert!(!holds(tol, &[NAN], &[1.0]));
    }

    #[test]
    fn rel_max_is_relative_to_the_largest_and_rel_max_row_to_the_row() {
        let (x, r) = ([1000.0, 0.0, 1.5, 0.0], [1000.0, 0.0, 1.0, 0.0]);
        assert!(holds(json!({"kind": "rel_max", "value": 1e-3}), &x, &r));
        assert!(!holds(json!({"kind": "rel_max", "value": 1e-4}), &x, &r));
        let row = |value: f64| {
            holds_with(json!({"kind": "rel_max_row", "value": value}), &[2, 2], &x, &r, Value::Null).unwrap()
        };
        assert!(row(0.5));
        assert!(!row(1e-3), "the second row is judged by its own maximum");
        assert!(!holds(json!({"kind": "rel_max", "value": 0.1}), &[NAN, 1.0], &[0.0, 1.0]));
    }

    #[test]
    fn rel_l2_and_mean_abs_see_all_values() {
        let tol = json!({"kind": "rel_l2", "value": 0.1});
        assert!(holds(tol.clone(), &[3.0, 4.5], &[3.0, 4.0]));
        assert!(!holds(tol.clone(), &[3.0, 4.6], &[3.0, 4.0]));
        assert!(!holds(tol, &[3.0, NAN], &[3.0, 4.0]));
        let tol = json!({"kind": "mean_abs", "value": 2});
        assert!(holds(tol.clone(), &[4.0, 0.0], &[0.0, 0.0]));
        assert!(!holds(tol.clone(), &[4.0, 0.1], &[0.0, 0.0]));
        assert!(!holds(tol, &[NAN, 0.0], &[0.0, 0.0]));
    }

    #[test]
    fn frac_diff_counts_and_all_wants_all() {
        let frac = json!({"kind": "frac_diff", "value": 0, "max_frac": 0.25});
        assert!(holds(frac.clone(), &[9.0, 1.0, 1.0, 1.0], &[1.0; 4]));
        assert!(!holds(frac.clone(), &[9.0, 9.0, 1.0, 1.0], &[1.0; 4]));
        assert!(!holds(frac.clone(), &[NAN, NAN, 1.0, 1.0], &[1.0; 4]));
        let all = json!({"kind": "all", "of": [{"kind": "abs", "value": 1}, frac]});
        assert!(holds(all.clone(), &[2.0, 1.0, 1.0, 1.0], &[1.0; 4]));
        assert!(!holds(all.clone(), &[9.0, 1.0, 1.0, 1.0], &[1.0; 4]), "the first of the list fails");
        assert!(!holds(all, &[2.0, 2.0, 1.0, 1.0], &[1.0; 4]), "the second of the list fails");
    }

    /// A row of norm 10 and sum 5 over 32 values, and a row whose true values are zero.
    fn stat_rows(x: impl Fn(&mut [f64]), tol: Value) -> Fallible<bool> {
        let mut r = vec![5.0, 10.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        r.extend([0.0; 10]);
        let mut tested = r.clone();
        x(&mut tested);
        let args = json!({"rows": ["a/kernel", "b/bias"], "sizes": [32, 4], "zero_rows": ["b/bias"]});
        holds_with(tol, &[2, 10], &tested, &r, args)
    }

    #[test]
    fn stat_rows_judge_norm_sum_and_first_values_apart() {
        // t = 1 %: norm within 0.1, sum within 0.1·min(√32, 3) = 0.3, first 8 within 0.1·min(1, √(8/32)) = 0.05.
        let tol = json!({"kind": "per_row_rel_l2", "value": 0.01, "zero_rows": "abs", "zero_abs": 1e-4,
            "sum_factor": 3, "first8_factor": 1});
        let check = |x: &dyn Fn(&mut [f64])| stat_rows(x, tol.clone()).unwrap();
        assert!(check(&|_| ()));
        assert!(check(&|x| x[1] += 0.09));
        assert!(!check(&|x| x[1] += 0.11));
        assert!(check(&|x| x[0] -= 0.29));
        assert!(!check(&|x| x[0] -= 0.31));
        assert!(check(&|x| x[9] += 0.049));
        assert!(!check(&|x| x[9] += 0.051));
        assert!(check(&|x| x[15] = -0.9e-4), "a zero row is judged absolutely");
        assert!(!check(&|x| x[15] = -1.1e-4));
        assert!(!check(&|x| x[3] = NAN));
        let mut narrow = tol.clone();
        narrow["norm_factor"] = json!(0.1);
        assert!(!stat_rows(|x| x[1] += 0.011, narrow.clone()).unwrap());
        assert!(stat_rows(|x| x[1] += 0.009, narrow).unwrap());
        // √size below sum_factor, and first8_factor·√(8/size) above 1, are the other sides of the minima.
        let mut wide = tol.clone();
        (wide["sum_factor"], wide["first8_factor"]) = (json!(20), json!(3));
        assert!(stat_rows(|x| x[0] += 0.56, wide.clone()).unwrap());
        assert!(!stat_rows(|x| x[0] += 0.57, wide.clone()).unwrap());
        assert!(stat_rows(|x| x[2] += 0.099, wide.clone()).unwrap());
        assert!(!stat_rows(|x| x[2] += 0.101, wide).unwrap());
    }

    #[test]
    fn stat_rows_take_their_tolerance_from_a_tensor() {
        // t of the first row is 2·0.01 + 0.01.
        let tol = json!({"kind": "per_row_rel_l2", "from": "err", "times": 2, "plus": 0.01, "zero_rows": "abs",
            "zero_abs": 1e-4, "sum_factor": 20, "first8_factor": 3});
        assert!(stat_rows(|x| x[1] += 0.29, tol.clone()).unwrap());
        assert!(!stat_rows(|x| x[1] += 0.31, tol.clone()).unwrap());
        let mut unknown = tol.clone();
        unknown["from"] = json!("elsewhere");
        assert!(stat_rows(|_| (), unknown).unwrap_err().to_string().contains("no such tensor"));
        let mut relative = tol.clone();
        for key in ["zero_rows", "zero_abs"] {
            relative.as_object_mut().unwrap().remove(key);
        }
        let error = stat_rows(|_| (), relative).unwrap_err().to_string();
        assert!(error.contains("zero rows without a tolerance"), "{error}");
        let mut both = tol;
        both["value"] = json!(0.1);
        assert!(stat_rows(|_| (), both).unwrap_err().to_string().contains("either"));
    }

    #[test]
    fn unknown_kinds_and_keys_are_refused() {
        let parse = |tol: Value| serde_json::from_value::<Tolerance>(tol).map(|_| ()).unwrap_err().to_string();
        assert!(parse(json!({"kind": "roughly", "value": 1})).contains("unknown variant `roughly`"));
        assert!(parse(json!({"kind": "abs", "value": 1, "first": 3})).contains("unknown field `first`"));
        assert!(parse(json!({"kind": "exact", "value": 1})).contains("unknown field `value`"));
        assert!(
            parse(json!({"kind": "per_row_rel_l2", "sum_factor": 1, "first8_factor": 1, "max": 2})).contains("max")
        );
        assert!(parse(json!({"kind": "frac_diff", "value": 1})).contains("max_frac"));
    }

    #[test]
    fn lengths_must_agree() {
        let args = Map::new();
        let comparison = Comparison { x: &[1.0], r: &[1.0, 2.0], shape: &[2], args: &args, tensor: &|_| fail("none") };
        assert!(Tolerance::Exact {}.miss(&comparison).unwrap_err().to_string().contains("1 values against 2"));
    }
}
