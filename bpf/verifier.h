/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What keeps the kernel's verifier from following the same code again and again, which makes a load, and so a start, slow. */
#pragma once
#include <linux/types.h>

/*
 * Returns the same number and makes the verifier forget what it knows of it: values, bounds, and which other numbers are
 * equal. Otherwise it would follow everything after this once for each way here. `noise` is any number that the verifier
 * does not know.
 */
static __always_inline __u64 verifier_forget(__u64 number, __u64 noise)
{
	number ^= noise;
	asm volatile("" : "+r"(number), "+r"(noise));
	return number ^ noise;
}
