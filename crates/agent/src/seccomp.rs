//! The filter of system calls for isolated processes: a classic BPF program in the form that `bwrap --seccomp` takes. It
//! refuses what gives code a way around the other walls (mounting, namespaces, other processes' memory, kernel modules and
//! programs, keys, clocks, asynchronous rings) and lets everything else through, because what a Python library needs
//! cannot be listed. It is the second wall behind the namespaces, not the first.

use std::ffi::c_long;

/// Offsets in `struct seccomp_data`, little-endian.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARG0: u32 = 16;
const ARG1: u32 = 24;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7FFF_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

#[cfg(target_arch = "x86_64")]
const OWN_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const OWN_ARCH: u32 = 0xC000_00B7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OWN_ARCH: u32 = 0;

/// Set in the number of a call of the x32 convention, under which every call has a second number.
const X32: u32 = 0x4000_0000;
/// Every flag of `clone` that makes a namespace, `CLONE_NEWTIME` excepted, whose bit `clone` uses for the signal.
const NEW_NAMESPACES: u32 = 0x7E02_0000;

/// Calls that no task needs.
const REFUSED: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// The program, or nothing on an architecture that it was not written for.
pub(crate) fn program() -> Option<Vec<u8>> {
    if OWN_ARCH == 0 {
        return None;
    }
    let mut out = Vec::new();
    let refuse = |code: libc::c_int| ERRNO | code as u32;
    // Another architecture has other numbers for the same calls: a 32-bit program would walk through.
    op(&mut out, LOAD, 0, 0, ARCH);
    op(&mut out, JUMP_EQUAL, 1, 0, OWN_ARCH);
    op(&mut out, RETURN, 0, 0, KILL);
    op(&mut out, LOAD, 0, 0, NUMBER);
    op(&mut out, JUMP_ANY_BIT, 0, 1, X32);
    op(&mut out, RETURN, 0, 0, refuse(libc::EPERM));
    for call in REFUSED {
        op(&mut out, JUMP_EQUAL, 0, 1, *call as u32);
        op(&mut out, RETURN, 0, 0, refuse(libc::EPERM));
    }
    // Its flags are in memory, where a filter cannot look. The C library then takes `clone`.
    op(&mut out, JUMP_EQUAL, 0, 1, libc::SYS_clone3 as u32);
    op(&mut out, RETURN, 0, 0, refuse(libc::ENOSYS));
    op(&mut out, JUMP_EQUAL, 0, 4, libc::SYS_clone as u32);
    op(&mut out, LOAD, 0, 0, ARG0);
    op(&mut out, JUMP_ANY_BIT, 0, 1, NEW_NAMESPACES);
    op(&mut out, RETURN, 0, 0, refuse(libc::EPERM));
    op(&mut out, RETURN, 0, 0, ALLOW);
    // Typing into the terminal of whoever started the agent.
    op(&mut out, JUMP_EQUAL, 0, 4, libc::SYS_ioctl as u32);
    op(&mut out, LOAD, 0, 0, ARG1);
    op(&mut out, JUMP_EQUAL, 1, 0, libc::TIOCSTI as u32);
    op(&mut out, JUMP_EQUAL, 0, 1, libc::TIOCLINUX as u32);
    op(&mut out, RETURN, 0, 0, refuse(libc::EPERM));
    op(&mut out, RETURN, 0, 0, ALLOW);
    Some(out)
}

/// One `struct sock_filter`.
fn op(out: &mut Vec<u8>, code: u16, if_true: u8, if_false: u8, value: u32) {
    out.extend_from_slice(&code.to_ne_bytes());
    out.extend_from_slice(&[if_true, if_false]);
    out.extend_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does.
    fn verdict(arch: u32, number: u32, args: [u32; 2]) -> u32 {
        let program = program().expect("an architecture that is known");
        let (mut at, mut value) = (0, 0);
        loop {
            let op = &program[at * 8..at * 8 + 8];
            let (code, k) = (u16::from_ne_bytes([op[0], op[1]]), u32::from_ne_bytes([op[4], op[5], op[6], op[7]]));
            at += 1;
            let jump = |yes: bool| usize::from(if yes { op[2] } else { op[3] });
            match code {
                LOAD => {
                    value = match k {
                        NUMBER => number,
                        ARCH => arch,
                        ARG0 => args[0],
                        ARG1 => args[1],
                        other => panic!("offset {other}"),
                    };
                }
                JUMP_EQUAL => at += jump(value == k),
                JUMP_ANY_BIT => at += jump(value & k != 0),
                RETURN => return k,
                other => panic!("code {other}"),
            }
        }
    }

    #[test]
    fn the_filter_refuses_what_leads_around_the_walls_and_nothing_else() {
        let own = |number: c_long, args| verdict(OWN_ARCH, number as u32, args);
        let no = ERRNO | libc::EPERM as u32;
        for call in REFUSED {
            assert_eq!(own(*call, [0, 0]), no, "{call}");
        }
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_futex, libc::SYS_openat, libc::SYS_mmap] {
            assert_eq!(own(call, [u32::MAX, u32::MAX]), ALLOW, "{call}");
        }
        assert_eq!(own(libc::SYS_clone3, [0, 0]), ERRNO | libc::ENOSYS as u32);
        // A thread, a child, and a child with a user namespace.
        assert_eq!(own(libc::SYS_clone, [0x003D_0F00, 0]), ALLOW);
        assert_eq!(own(libc::SYS_clone, [0x0120_0011, 0]), ALLOW);
        assert_eq!(own(libc::SYS_clone, [0x1000_0011, 0]), no);
        assert_eq!(own(libc::SYS_ioctl, [0, libc::TIOCSTI as u32]), no);
        assert_eq!(own(libc::SYS_ioctl, [0, libc::TIOCGWINSZ as u32]), ALLOW);
        assert_eq!(verdict(0x4000_0003, 1, [0, 0]), KILL, "a 32-bit program");
        assert_eq!(verdict(OWN_ARCH, X32 | 1, [0, 0]), no);
    }
}
