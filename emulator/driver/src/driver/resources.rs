//! What `ptxas -v` says about kernels. PTX does not tell how many registers the machine code will use, so programs that
//! want launch limits and occupancy to count them give the compiler's own words.

use std::collections::HashMap;

/// Resources of one kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of stack frame of a thread.
    pub stack: u32,
    /// Bytes of registers stored to and loaded from local memory because there were too few.
    pub spills: u32,
}

/// Reads the output of `ptxas -v` (or `nvcc -Xptxas -v`). The error says what was expected.
pub fn parse(text: &str) -> Result<HashMap<String, Resources>, String> {
    let mut all: HashMap<String, Resources> = HashMap::new();
    // The kernel that is being compiled, and the function whose properties are being listed.
    let (mut kernel, mut listed) = (None::<String>, None::<String>);
    let number_before = |line: &str, unit: &str| -> Option<u32> {
        line.split(',').find_map(|part| part.trim().strip_suffix(unit)?.split_whitespace().next_back()?.parse().ok())
    };
    for line in text.lines() {
        let quoted = || line.split('\'').nth(1).map(str::to_string);
        if line.contains("Compiling entry function") {
            kernel = quoted();
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            listed = Some(name.trim().to_string());
        } else if let Some(stack) = number_before(line, "bytes stack frame") {
            // Device functions have properties of their own; only those of the kernel itself are kept.
            if let Some(k) = kernel.as_ref().filter(|k| listed.as_ref().is_none_or(|l| l == *k)) {
                let r = all.entry(k.clone()).or_default();
                r.stack = stack;
                r.spills = number_before(line, "bytes spill stores").unwrap_or(0)
                    + number_before(line, "bytes spill loads").unwrap_or(0);
            }
        } else if let Some((_, rest)) = line.split_once("Used ")
            && let Some(n) = number_before(rest, "registers")
            && let Some(k) = &kernel
        {
            all.entry(k.clone()).or_default().registers = n;
        }
    }
    if all.values().all(|r| r.registers == 0) {
        return Err("no `Used N registers` after `Compiling entry function`: this is not the output of ptxas -v".into());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ptxas() {
        let text = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gemm' for 'sm_80'
ptxas info    : Function properties for gemm
    16 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size, 384 bytes cmem[0]
ptxas info    : Compile time = 12.1 ms
ptxas info    : Compiling entry function 'calls' for 'sm_80'
ptxas info    : Function properties for calls
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers, 376 bytes cmem[0]
ptxas info    : Function properties for _Z6hornerfi
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";
        let all = parse(text).unwrap();
        assert_eq!(all["gemm"], Resources { registers: 168, stack: 16, spills: 52 });
        assert_eq!(all["calls"], Resources { registers: 20, stack: 0, spills: 0 });
        assert!(parse("nvcc warning").unwrap_err().contains("ptxas -v"));
    }
}
