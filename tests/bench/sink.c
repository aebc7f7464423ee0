// Counts and drops the generator's packets where they arrive, measures how old those are that say when they were sent,
// and checks the checksums of some. Everything else goes up. Compiled with FIRST_PORT and LAST_PORT (destination, both
// included), IP_BYTES (20 or 40: length of the IP header, which tells the family), UDP_BYTES (length of a packet from
// its UDP header on), STAMP_OFFSET (of the time sent, from the UDP header on), VERIFY_EVERY (a power of two; 0: never),
// CPUS, BUCKETS and BUCKET_SHIFT (a bucket is 2^BUCKET_SHIFT ns wide; the last takes all that is older).
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

struct tally {
    __u64 packets;
    __u64 bytes;                 // of whole frames
    __u64 passed;                // frames of others
    __u64 wrong_length;          // by IP or UDP header; counted in packets, too, but neither verified nor measured
    __u64 verified;
    __u64 bad_ip_checksum;       // IPv6 has none
    __u64 bad_udp_checksum;      // wrong or missing
};

struct headers {
    struct ethhdr eth;
    __u8 ip[IP_BYTES];
    struct udphdr udp;
} __attribute__((packed));

// Each core writes to a row, and to a run of buckets, of its own.
BPF_ARRAY(tallies, struct tally, CPUS);
BPF_ARRAY(delays, __u64, CPUS * BUCKETS);

static __always_inline bool is_udp(const struct headers *headers)
{
    const struct iphdr *v4 = (void *)headers->ip;
    const struct ipv6hdr *v6 = (void *)headers->ip;

    if (IP_BYTES == sizeof(*v6))
        return headers->eth.h_proto == bpf_htons(ETH_P_IPV6) && v6->nexthdr == IPPROTO_UDP;
    return headers->eth.h_proto == bpf_htons(ETH_P_IP) && v4->ihl == 5 && v4->protocol == IPPROTO_UDP;
}

static __always_inline bool is_expected(const struct headers *headers)
{
    __u16 port = bpf_ntohs(headers->udp.dest);

    return is_udp(headers) && port >= FIRST_PORT && port <= LAST_PORT;
}

static __always_inline bool has_right_length(const struct headers *headers)
{
    const struct iphdr *v4 = (void *)headers->ip;
    const struct ipv6hdr *v6 = (void *)headers->ip;
    __be16 wanted = bpf_htons(UDP_BYTES);

    if (IP_BYTES == sizeof(*v6) ? v6->payload_len != wanted : v4->tot_len != bpf_htons(IP_BYTES + UDP_BYTES))
        return false;
    return headers->udp.len == wanted;
}

static __always_inline bool is_right(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

static __always_inline void verify(struct tally *tally, struct headers *headers)
{
    const int address_bytes = IP_BYTES == sizeof(struct ipv6hdr) ? 16 : 4;
    void *addresses = headers->ip + IP_BYTES - 2 * address_bytes;
    __u64 sum = (__u64)bpf_htons(IPPROTO_UDP) + headers->udp.len;

    tally->verified++;
    if (IP_BYTES == sizeof(struct iphdr) && !is_right((__u32)bpf_csum_diff(0, 0, (void *)headers->ip, IP_BYTES, 0)))
        tally->bad_ip_checksum++;
    sum += (__u32)bpf_csum_diff(0, 0, addresses, 2 * address_bytes, 0);
    sum += (__u32)bpf_csum_diff(0, 0, (void *)&headers->udp, UDP_BYTES, 0);
    if (!headers->udp.check || !is_right(sum))
        tally->bad_udp_checksum++;
}

// Number of the bucket for a packet that this core gets now.
static __always_inline __u32 delay_bucket(int cpu, __u64 sent_ns)
{
    __u64 bucket = (bpf_ktime_get_ns() - sent_ns) >> BUCKET_SHIFT;

    if (bucket > BUCKETS - 1)
        bucket = BUCKETS - 1;
    return cpu * BUCKETS + bucket;
}

int count(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    struct headers *headers = data;
    int cpu = bpf_get_smp_processor_id();
    struct tally *tally = tallies.lookup(&cpu);

    if (!tally)
        return XDP_ABORTED;
    if (data + sizeof(*headers) > data_end || !is_expected(headers)) {
        tally->passed++;
        return XDP_PASS;
    }
    tally->packets++;
    tally->bytes += data_end - data;
    if (!has_right_length(headers) || (void *)&headers->udp + UDP_BYTES > data_end) {
        tally->wrong_length++;
        return XDP_DROP;
    }
    if (VERIFY_EVERY && !(tally->packets & (VERIFY_EVERY - 1)))
        verify(tally, headers);
    __u64 sent_ns = *(__u64 *)((void *)&headers->udp + STAMP_OFFSET);
    if (!sent_ns)
        return XDP_DROP;
    __u32 bucket = delay_bucket(cpu, sent_ns);
    __u64 *delay = delays.lookup(&bucket);
    if (delay)
        (*delay)++;
    return XDP_DROP;
}
