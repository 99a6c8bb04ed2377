//! Calls a kernel as compiled for the processor at hand.
//!
//! The kernels are plain Rust that the compiler vectorizes; on x86-64 the default target
//! has SSE2 only, so a second copy is compiled with AVX2 and chosen at run time. Other
//! targets use what they are built for (NEON, and simd128 if enabled).

/// `dispatch!(body(name: Type, ...) -> Ret)` calls `body(name, ...)`, which has to be
/// `#[inline(always)]`, within a function that enables AVX2 if the processor has it.
///
/// FMA is not enabled, though the compiler would not contract on its own: a fused
/// multiply and add rounds once and gives other codes.
macro_rules! dispatch {
    ($body:ident $([$($gen:ident: $bound:path),*])? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,bmi1,bmi2")]
            fn with_avx2 $(<$($gen: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            if std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("bmi1")
                && std::arch::is_x86_feature_detected!("bmi2")
            {
                // SAFETY: the features that the function enables were just detected.
                return unsafe { with_avx2($($arg),*) };
            }
        }
        $body($($arg),*)
    }};
}

pub(crate) use dispatch;
