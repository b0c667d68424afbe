//! What the emulator offers beyond the driver API.

use super::*;
use crate::driver::state::read_resources;

entry_points! { false;
    warpsmithEmuSubAlloc(p: u64, bytes: u64) s {
        // The first part closes the rest of its allocation: what is queued may still use that.
        if s.sticky.is_none() && !s.capturing() && !s.device.arena.divided(p) {
            s.run_all()?;
        }
        match s.device.arena.sub_alloc(p, bytes) {
            Ok(()) => Ok(()),
            Err(e) => s.fail(INVALID_VALUE, e),
        }
    }
    warpsmithEmuSubFree(p: u64, bytes: u64) s {
        // What is queued may still use the part. A graph that is being captured will use it whenever it runs: its bytes
        // stay open then.
        let keep = s.capturing();
        if s.sticky.is_none() && !keep {
            s.run_all()?;
        }
        match s.device.arena.sub_free(p, bytes, keep) {
            Ok(()) => Ok(()),
            Err(e) => s.finding(Kind::InvalidFree, INVALID_VALUE, e),
        }
    }
    warpsmithEmuReset() s {
        if s.sticky.is_none() {
            // What goes wrong here is forgotten with the rest.
            let _ = s.synchronise_all();
        }
        s.drop_queue();
        s.sticky = None;
        s.findings.clear();
        s.noted.clear();
        s.reports.clear();
        Ok(())
    }
    warpsmithEmuConfigure(key: Text, value: Text) s {
        let (key, value) = (key.get()?, value.get()?);
        if key == "resources" {
            return match read_resources(&value) {
                Ok(r) => {
                    s.resources.extend(r);
                    Ok(())
                }
                Err(e) => s.fail(INVALID_VALUE, e),
            };
        }
        match (&key[..], Profile::find(&value), checks(&value), value.parse::<u64>()) {
            ("profile", Some(p), _, _) => {
                s.profile = p;
                s.device.architecture = p.architecture();
                s.settings.sms = p.sms;
            }
            ("checks", _, Some(c), _) => s.settings.checks = c,
            ("seed", _, _, Ok(n)) => {
                s.settings.seed = n;
                s.queue.reseed(n);
            }
            ("threads", _, _, Ok(n)) => s.settings.threads = n as usize,
            ("limit", _, _, Ok(n)) => s.settings.limit = n,
            ("memory_bytes", _, _, Ok(n)) => s.device.arena.set_total(n),
            _ => return s.fail(INVALID_VALUE, format!("option {key}={value}: profile=sm_80|sm_90, checks=all|memory|none, seed=N, threads=N, limit=SECONDS, memory_bytes=N, resources=FILE")),
        }
        Ok(())
    }
    warpsmithEmuReport(buffer: Out<u8>, capacity: usize, needed: Out<usize>) s {
        if s.sticky.is_none() {
            s.run_all()?;
        }
        let json = s.json();
        needed.set(json.len())?;
        if json.len() <= capacity && !buffer.0.is_null() {
            // SAFETY: the caller says how many bytes the buffer has.
            unsafe { std::ptr::copy_nonoverlapping(json.as_ptr(), buffer.0, json.len()) };
        }
        Ok(())
    }
}
