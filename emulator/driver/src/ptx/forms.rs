//! Every opcode form that the emulator accepts, as patterns: `{a,b}` is one of several, `{.x,}` is optional. The lowering
//! refuses what is not here even if it would know what to do, and a test executes every form of these lists against a
//! reference; so the lists are what the emulator promises.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Forms of sm_80.
const SM_80: &[&str] = &[
    // Integers.
    "{add,sub,mul.lo,mul.hi,mad.lo,mad.hi,sad,div,rem,min,max}.{u16,u32,u64,s16,s32,s64}",
    "{mul,mad}.wide.{u16,u32,s16,s32}",
    "{add,sub,mad.hi,mad24.hi}.sat.s32",
    "{add,sub}.cc.{u32,s32,u64,s64}",
    "{addc,subc}{.cc,}.{u32,s32,u64,s64}",
    "mad.{lo,hi}.cc.{u32,s32,u64,s64}",
    "madc.{lo,hi}{.cc,}.{u32,s32,u64,s64}",
    "{mul24,mad24}.{lo,hi}.{u32,s32}",
    "{abs,neg}.{s16,s32,s64}",
    "{popc,clz}.{b32,b64}",
    "bfind{.shiftamt,}.{u32,u64,s32,s64}",
    "fns.b32",
    "brev.{b32,b64}",
    "bfe.{u32,u64,s32,s64}",
    "bfi.{b32,b64}",
    "szext.{clamp,wrap}.{u32,s32}",
    "bmsk.{clamp,wrap}.b32",
    "dp4a.{u32,s32}.{u32,s32}",
    "dp2a.{lo,hi}.{u32,s32}.{u32,s32}",
    "{vabsdiff2,vabsdiff4}.u32.u32.u32{.add,}",
    // f32 and f64.
    "testp.{finite,infinite,number,notanumber,normal,subnormal}.{f32,f64}",
    "copysign.{f32,f64}",
    "{add,sub,mul}{.rn,.rz,.rm,.rp,}{.ftz,}{.sat,}.f32",
    "{add,sub,mul}{.rn,.rz,.rm,.rp,}.f64",
    "{fma,mad}.{rn,rz,rm,rp}{.ftz,}{.sat,}.f32",
    "{fma,mad}.{rn,rz,rm,rp}.f64",
    "div.{approx,full}{.ftz,}.f32",
    "{div,rcp,sqrt}.{rn,rz,rm,rp}{.ftz,}.f32",
    "{div,rcp,sqrt}.{rn,rz,rm,rp}.f64",
    "{abs,neg}{.ftz,}.f32",
    "{abs,neg,min,max}.f64",
    "{min,max}{.ftz,}{.NaN,}.f32",
    "{rcp,sqrt,rsqrt,sin,cos,lg2,ex2}.approx{.ftz,}.f32",
    "tanh.approx.f32",
    "rcp.approx.ftz.f64",
    "rsqrt.approx{.ftz,}.f64",
    // Half precision.
    "{add,sub,mul}{.rn,}{.ftz,}{.sat,}.{f16,f16x2}",
    "fma.rn{.ftz,}{.sat,.relu,}.{f16,f16x2}",
    "fma.rn{.relu,}.{bf16,bf16x2}",
    "{abs,neg}{.ftz,}.{f16,f16x2}",
    "{abs,neg}.{bf16,bf16x2}",
    "{min,max}{.ftz,}{.NaN,}.{f16,f16x2}",
    "{min,max}{.NaN,}.{bf16,bf16x2}",
    "{tanh,ex2}.approx.{f16,f16x2}",
    // Comparison and selection.
    "setp.{eq,ne}{.and,.or,.xor,}.{b16,b32,b64}",
    "setp.{eq,ne,lt,le,gt,ge}{.and,.or,.xor,}.{u16,u32,u64,s16,s32,s64}",
    "setp.{lo,ls,hi,hs}{.and,.or,.xor,}.{u16,u32,u64}",
    "setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}{.ftz,}.{f32,f16,f16x2}",
    "setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}.f64",
    "set.{eq,ne}{.and,.or,.xor,}.{u32,s32,f32,f16}.{b16,b32,b64}",
    "set.{eq,ne,lt,le,gt,ge}{.and,.or,.xor,}.{u32,s32,f32,f16}.{u16,u32,u64,s16,s32,s64}",
    "set.{lo,ls,hi,hs}{.and,.or,.xor,}.{u32,s32,f32,f16}.{u16,u32,u64}",
    "set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}{.ftz,}.{u32,s32,f32,f16}.f32",
    "set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}.{u32,s32,f32,f16}.f64",
    "set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}{.ftz,}.{f16,u16,s16,u32,s32}.f16",
    "set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}{.ftz,}.{f16x2,u32,s32}.f16x2",
    "selp.{b16,b32,b64,u16,u32,u64,s16,s32,s64,f32,f64}",
    "slct.{b16,b32,b64,u16,u32,u64,s16,s32,s64,f32,f64}.s32",
    "slct{.ftz,}.{b16,b32,b64,u16,u32,u64,s16,s32,s64,f32,f64}.f32",
    // Logic and shifts.
    "{and,or,xor,not}.{pred,b16,b32,b64}",
    "cnot.{b16,b32,b64}",
    "lop3.b32",
    "shf.{l,r}.{clamp,wrap}.b32",
    "shl.{b16,b32,b64}",
    "shr.{b16,b32,b64,u16,u32,u64,s16,s32,s64}",
    "prmt.b32{.f4e,.b4e,.rc8,.ecl,.ecr,.rc16,}",
    // Moves and conversions.
    "mov.{pred,b16,b32,b64,u16,u32,u64,s16,s32,s64,f32,f64}",
    "cvt.{u8,u16,u32,u64,s8,s16,s32,s64}.{u8,u16,u32,u64,s8,s16,s32,s64}",
    // `.sat` exists where something can be out of range.
    "cvt.sat.u8.{u16,u32,u64,s8,s16,s32,s64}",
    "cvt.sat.s8.{u8,u16,u32,u64,s16,s32,s64}",
    "cvt.sat.u16.{u32,u64,s8,s16,s32,s64}",
    "cvt.sat.s16.{u16,u32,u64,s32,s64}",
    "cvt.sat.u32.{u64,s8,s16,s32,s64}",
    "cvt.sat.s32.{u32,u64,s64}",
    "cvt.sat.{u64.s8,u64.s16,u64.s32,u64.s64,s64.u64}",
    "cvt.{rn,rz,rm,rp}{.sat,}.{f16,f64}.{u8,u16,u32,u64,s8,s16,s32,s64}",
    "cvt.{rn,rz,rm,rp}{.ftz,}{.sat,}.f32.{u8,u16,u32,u64,s8,s16,s32,s64}",
    "cvt.{rni,rzi,rmi,rpi}{.sat,}.{u8,u16,u32,u64,s8,s16,s32,s64}.{f16,f64}",
    "cvt.{rni,rzi,rmi,rpi}{.ftz,}{.sat,}.{u8,u16,u32,u64,s8,s16,s32,s64}.f32",
    "cvt{.sat,}.{f64,f16}.f16",
    "cvt{.ftz,}{.sat,}.{f32.f16,f32.f32,f64.f32}",
    "cvt{.sat,}.f64.f64",
    "cvt.{rni,rzi,rmi,rpi}{.sat,}.{f16.f16,f64.f64}",
    "cvt.{rni,rzi,rmi,rpi}{.ftz,}{.sat,}.f32.f32",
    "cvt.{rn,rz,rm,rp}{.ftz,}{.sat,}.f32.f64",
    "cvt.{rn,rz,rm,rp}{.sat,}.f16.f64",
    "cvt.{rn,rz,rm,rp}{.ftz,}{.sat,}.f16.f32",
    "cvt.{rn,rz}.relu.f16.f32",
    "cvt.{rn,rz}{.relu,}.{bf16,bf16x2,f16x2}.f32",
    "cvt.f32.bf16",
    "cvt.rna.tf32.f32",
    "cvt.pack.sat.{u16,s16}.s32",
    "cvt.pack.sat.{u2,s2,u4,s4,u8,s8}.s32.b32",
    "cvta{.to,}.{global,shared,shared::cta,local,const,param}.u64",
    "isspacep.{global,shared,shared::cta,local,const,param}",
    // Memory.
    "ld{.global,.shared,.local,.const,.param,}{.v2,.v4,}.{b8,b16,b32,u8,u16,u32,s8,s16,s32,f32}",
    "ld{.global,.shared,.local,.const,.param,}{.v2,}.{b64,u64,s64,f64}",
    "ld.{volatile,relaxed,acquire}{.global,.shared,}{.v2,.v4,}.{b8,b16,b32,u8,u16,u32,s8,s16,s32,f32}",
    "ld.{volatile,relaxed,acquire}{.global,.shared,}{.v2,}.{b64,u64,s64,f64}",
    "ldu{.global,}{.v2,.v4,}.{b8,b16,b32,u8,u16,u32,s8,s16,s32,f32}",
    "ldu{.global,}{.v2,}.{b64,u64,s64,f64}",
    "st{.global,.shared,.local,}{.v2,.v4,}.{b8,b16,b32,u8,u16,u32,s8,s16,s32,f32}",
    "st{.global,.shared,.local,}{.v2,}.{b64,u64,s64,f64}",
    "st.{volatile,relaxed,release}{.global,.shared,}{.v2,.v4,}.{b8,b16,b32,u8,u16,u32,s8,s16,s32,f32}",
    "st.{volatile,relaxed,release}{.global,.shared,}{.v2,}.{b64,u64,s64,f64}",
    "st.param{.v2,.v4,}.{b8,b16,b32,u8,u16,u32,s8,s16,s32,f32}",
    "st.param{.v2,}.{b64,u64,s64,f64}",
    "atom{.global,.shared,}.{and,or,xor,exch,cas}.{b32,b64}",
    "atom{.global,.shared,}.cas.b16",
    "{atom,red}{.global,.shared,}.add.{u32,s32,u64,f32,f64}",
    "{atom,red}{.global,.shared,}.add.noftz.{f16,f16x2}",
    "{atom,red}{.global,.shared,}.{inc,dec}.u32",
    "{atom,red}{.global,.shared,}.{min,max}.{u32,s32,u64,s64}",
    "red{.global,.shared,}.{and,or,xor}.{b32,b64}",
    "prefetch{.global,.local,}.{L1,L2}",
    "prefetch.global.L2::{evict_last,evict_normal}",
    "prefetchu.L1",
    "discard{.global,}.L2",
    "applypriority{.global,}.L2::evict_normal",
    "createpolicy.fractional.L2::{evict_last,evict_normal,evict_first,evict_unchanged}{.L2::evict_first,.L2::evict_unchanged,}.b64",
    "createpolicy.range{.global,}.L2::{evict_last,evict_normal,evict_first,evict_unchanged}{.L2::evict_first,.L2::evict_unchanged,}.b64",
    "createpolicy.cvt.L2.b64",
    "cp.async.ca.shared.global",
    "cp.async.cg.shared.global",
    "cp.async.{commit_group,wait_group,wait_all}",
    // Matrices.
    "ldmatrix.sync.aligned.m8n8.{x1,x2,x4}{.trans,}{.shared,.shared::cta,}.b16",
    "movmatrix.sync.aligned.m8n8.trans.b16",
    "mma.sync.aligned.{m16n8k8,m16n8k16}.row.col.{f16.f16.f16.f16,f32.f16.f16.f32,f32.bf16.bf16.f32}",
    "mma.sync.aligned.{m16n8k4,m16n8k8}.row.col.f32.tf32.tf32.f32",
    "mma.sync.aligned.m8n8k4.row.col{.rn,}.f64.f64.f64.f64",
    "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64.rn",
    "mma.sync.aligned.{m8n8k16,m16n8k16,m16n8k32}.row.col{.satfinite,}.s32.{s8,u8}.{s8,u8}.s32",
    "wmma.load.{a,b}.sync.aligned.{row,col}.{m16n16k16,m8n32k16,m32n8k16}{.global,.shared,}.{f16,bf16,s8,u8}",
    "wmma.load.c.sync.aligned.{row,col}.{m16n16k16,m8n32k16,m32n8k16}{.global,.shared,}.{f16,f32,s32}",
    "wmma.store.d.sync.aligned.{row,col}.{m16n16k16,m8n32k16,m32n8k16}{.global,.shared,}.{f16,f32,s32}",
    "wmma.load.{a,b}.sync.aligned.{row,col}.m16n16k8{.global,.shared,}.tf32",
    "wmma.load.c.sync.aligned.{row,col}.m16n16k8{.global,.shared,}.f32",
    "wmma.store.d.sync.aligned.{row,col}.m16n16k8{.global,.shared,}.f32",
    "wmma.{load.a,load.b,load.c,store.d}.sync.aligned.{row,col}.m8n8k4{.global,.shared,}.f64",
    "wmma.mma.sync.aligned.{row,col}.{row,col}.{m16n16k16,m8n32k16,m32n8k16}.{f16,f32}.{f16,f32}",
    "wmma.mma.sync.aligned.{row,col}.{row,col}.{m16n16k16,m8n32k16,m32n8k16}.f32.bf16.bf16.f32",
    "wmma.mma.sync.aligned.{row,col}.{row,col}.{m16n16k16,m8n32k16,m32n8k16}.s32.{s8.s8,u8.u8}.s32{.satfinite,}",
    "wmma.mma.sync.aligned.{row,col}.{row,col}.m16n16k8.f32.tf32.tf32.f32",
    "wmma.mma.sync.aligned.{row,col}.{row,col}.m8n8k4{.rn,}.f64.f64.f64.f64",
    "wmma.mma.sync.aligned.{row,col}.{row,col}.m8n8k4.f64.f64.f64.f64.rn",
    // Lanes, barriers, control.
    "shfl.sync.{up,down,bfly,idx}.b32",
    "vote.sync.{all,any,uni}.pred",
    "vote.sync.ballot.b32",
    "match.{any,all}.sync.{b32,b64}",
    "redux.sync.{add,min,max}.{u32,s32}",
    "redux.sync.{and,or,xor}.b32",
    "activemask.b32",
    "bar{.cta,}.{sync,arrive}",
    "bar{.cta,}.red.{popc.u32,and.pred,or.pred}",
    "barrier{.cta,}.{sync,arrive}{.aligned,}",
    "barrier{.cta,}.red.popc{.aligned,}.u32",
    "barrier{.cta,}.red.{and,or}{.aligned,}.pred",
    "bar.warp.sync",
    "membar.{cta,gl,sys}",
    "fence{.sc,.acq_rel,}.{cta,gpu,sys}",
    "bra",
    "brx.idx",
    "call",
    "ret",
    "exit",
    "trap",
    "brkpt",
    "pmevent{.mask,}",
    "nanosleep.u32",
];

/// Forms that need sm_86.
const SM_86: &[&str] =
    &["{min,max}{.ftz,}{.NaN,}.xorsign.abs.{f32,f16,f16x2}", "{min,max}{.NaN,}.xorsign.abs.{bf16,bf16x2}"];

/// Forms that need sm_90.
const SM_90: &[&str] = &[
    "set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}.{bf16,u16,s16,u32,s32}.bf16",
    "set.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}.{bf16x2,u32,s32}.bf16x2",
    "stmatrix.sync.aligned.m8n8.{x1,x2,x4}{.trans,}{.shared,.shared::cta,}.b16",
    "{add,sub,mul}{.rn,}.{bf16,bf16x2}",
    "tanh.approx.{bf16,bf16x2}",
    "ex2.approx.ftz.{bf16,bf16x2}",
    "setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{.and,.or,.xor,}.{bf16,bf16x2}",
    "cvt.{rn,rz,rm,rp}.bf16.{u16,u32,u64,s16,s32,s64}",
    "cvt.{rni,rzi,rmi,rpi}.{u16,u32,u64,s16,s32,s64}.bf16",
    "cvt.f64.bf16",
    "cvt.{rn,rz,rm,rp}.{bf16.f64,bf16.f16,f16.bf16}",
    "cvt.{rm,rp}.bf16.f32",
    "cvt.{rni,rzi,rmi,rpi}.bf16.bf16",
    "cvt.{rn,rz}{.relu,}.tf32.f32",
    "{atom,red}{.global,.shared,}.add.noftz.{bf16,bf16x2}",
];

/// The strings that a pattern stands for.
fn expand(pattern: &str, target: u32, out: &mut BTreeMap<String, u32>) {
    let mut done = vec![String::new()];
    let mut rest = pattern;
    while let Some((head, tail)) = rest.split_once('{') {
        let (choices, after) = tail.split_once('}').unwrap_or((tail, ""));
        done = done.iter().flat_map(|d| choices.split(',').map(move |c| format!("{d}{head}{c}"))).collect();
        rest = after;
    }
    out.extend(done.into_iter().map(|d| (d + rest, target)));
}

/// Every form with the target it needs at least.
static FORMS: LazyLock<BTreeMap<String, u32>> = LazyLock::new(|| {
    let mut out = BTreeMap::new();
    for (target, patterns) in [(90, SM_90), (86, SM_86), (80, SM_80)] {
        for p in patterns {
            expand(p, target, &mut out);
        }
    }
    out
});

/// All forms, with the target that each needs at least.
pub fn all() -> impl Iterator<Item = (&'static str, u32)> {
    FORMS.iter().map(|(f, &target)| (&f[..], target))
}

/// The form of an opcode: without the modifiers that change no result, which are cache and eviction hints, the scope of
/// memory operations (every access here is seen by everybody at once), the ordering of atomics and `.uni`.
pub fn form(opcode: &[String]) -> String {
    let base = opcode[0].as_str();
    let memory = matches!(base, "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "prefetch" | "wmma");
    let hint = |part: &str| match part {
        "uni" => matches!(base, "bra" | "brx" | "call" | "ret"),
        "weak" | "nc" | "cta" | "gpu" | "sys" | "cluster" => memory,
        "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" => matches!(base, "ld" | "ldu" | "st"),
        "relaxed" | "acquire" | "release" | "acq_rel" => matches!(base, "atom" | "red"),
        "shared::cta" => memory,
        "param::entry" | "param::func" => memory,
        _ => memory && base != "prefetch" && (part.starts_with("L1::") || part.starts_with("L2::")),
    };
    let same = |part: &str| match part {
        "shared::cta" if memory => Some("shared".to_string()),
        "param::entry" | "param::func" if memory => Some("param".to_string()),
        p if hint(p) => None,
        p => Some(p.to_string()),
    };
    let mut parts: Vec<String> = opcode[1..].iter().filter_map(|p| same(p)).collect();
    // ptxas takes some modifiers in more than one order: CUTLASS writes `ld.global.acquire.gpu`,
    // `ldmatrix.sync.aligned.x4.trans.m8n8` and `mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32.satfinite`, CUB
    // `vote.ballot.sync`.
    let last = parts.len();
    match base {
        "ld" | "st" => {
            parts.sort_by_key(|p| !matches!(p.as_str(), "volatile" | "relaxed" | "acquire" | "release"));
        }
        "vote" => parts.sort_by_key(|p| p != "sync"),
        "ldmatrix" => parts.sort_by_key(|p| match p.as_str() {
            "sync" | "aligned" => 0,
            "m8n8" => 1,
            "x1" | "x2" | "x4" => 2,
            "trans" => 3,
            _ => 4,
        }),
        "mma" if last > 5 && parts[last - 1] == "satfinite" => parts[5..].rotate_right(1),
        _ => {}
    }
    [&[base.to_string()], &parts[..]].concat().join(".")
}

/// The target a form needs at least, or `None` if the emulator does not have it.
pub fn target(form: &str) -> Option<u32> {
    FORMS.get(form).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_hints() {
        let mut out = BTreeMap::new();
        expand("a{.x,}.{b,c}", 80, &mut out);
        assert_eq!(out.into_keys().collect::<Vec<_>>(), ["a.b", "a.c", "a.x.b", "a.x.c"]);
        let parts = |s: &str| s.split('.').map(str::to_string).collect::<Vec<_>>();
        assert_eq!(form(&parts("ld.global.nc.L1::no_allocate.L2::128B.v4.f32")), "ld.global.v4.f32");
        assert_eq!(form(&parts("atom.acq_rel.gpu.shared::cta.add.u32")), "atom.shared.add.u32");
        assert_eq!(form(&parts("membar.cta")), "membar.cta");
        assert_eq!(form(&parts("ld.global.acquire.gpu.b32")), "ld.acquire.global.b32");
        assert_eq!(form(&parts("st.global.release.gpu.b32")), "st.release.global.b32");
        assert_eq!(form(&parts("vote.ballot.sync.b32")), "vote.sync.ballot.b32");
        let matrices = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16";
        assert_eq!(form(&parts("ldmatrix.sync.aligned.x4.trans.m8n8.shared.b16")), matrices);
        assert_eq!(target(matrices), Some(80));
        let product = "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.s8.s32";
        assert_eq!(form(&parts("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32.satfinite")), product);
        assert_eq!(form(&parts(product)), product);
        assert_eq!(target(product), Some(80));
        assert_eq!(target("add.s32"), Some(80));
        assert_eq!(target("add.bf16"), Some(90));
        assert_eq!(target("add.u8"), None);
    }
}
