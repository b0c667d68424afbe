//! A driver library that answers as the environment says. `probe.rs` compiles it and opens it in a child process.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

fn number(name: &str) -> i32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: u32) -> i32 {
    number("FAKE_INIT")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> i32 {
    unsafe { *version = number("FAKE_VERSION") };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> i32 {
    unsafe { *count = number("FAKE_COUNT") };
    number("FAKE_COUNT_CODE")
}

// A device handle is not its ordinal, so that a probe that mixes them up is caught.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut i32, ordinal: i32) -> i32 {
    unsafe { *device = ordinal + 40 };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut u8, len: i32, device: i32) -> i32 {
    let text = format!("Fake GPU {}\0", device - 40);
    assert!(text.len() <= len as usize);
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name, text.len()) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32) -> i32 {
    let answer = match attribute {
        75 => 7 + (device - 40),
        76 => 5,
        _ => return 1,
    };
    unsafe { *value = answer };
    0
}

#[cfg(not(no_total_mem))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> i32 {
    unsafe { *bytes = (device - 39) as usize * (16 << 30) };
    0
}
