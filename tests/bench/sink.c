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

struct packet {
    struct ethhdr eth;
    __u8 ip[IP_BYTES];
    struct udphdr udp;
    __u8 payload[UDP_BYTES - sizeof(struct udphdr)];
} __attribute__((packed));

#define HEADERS_END __builtin_offsetof(struct packet, payload)

// Each core writes to a row, and to a run of buckets, of its own.
BPF_ARRAY(tallies, struct tally, CPUS);
BPF_ARRAY(delays, __u64, CPUS * BUCKETS);

static __always_inline bool is_udp(const struct packet *packet)
{
    const struct iphdr *v4 = (void *)packet->ip;
    const struct ipv6hdr *v6 = (void *)packet->ip;

    if (IP_BYTES == sizeof(*v6))
        return packet->eth.h_proto == bpf_htons(ETH_P_IPV6) && v6->nexthdr == IPPROTO_UDP;
    return packet->eth.h_proto == bpf_htons(ETH_P_IP) && v4->ihl == 5 && v4->protocol == IPPROTO_UDP;
}

static __always_inline bool is_expected(const struct packet *packet)
{
    __u32 offset = bpf_ntohs(packet->udp.dest) - FIRST_PORT;

    return is_udp(packet) && offset <= LAST_PORT - FIRST_PORT;
}

static __always_inline bool has_right_length(const struct packet *packet)
{
    const struct iphdr *v4 = (void *)packet->ip;
    const struct ipv6hdr *v6 = (void *)packet->ip;
    __be16 wanted = bpf_htons(UDP_BYTES);

    if (IP_BYTES == sizeof(*v6) ? v6->payload_len != wanted : v4->tot_len != bpf_htons(IP_BYTES + UDP_BYTES))
        return false;
    return packet->udp.len == wanted;
}

static __always_inline bool is_right(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

static __always_inline void verify(struct tally *tally, struct packet *packet)
{
    const int address_bytes = IP_BYTES == sizeof(struct ipv6hdr) ? 16 : 4;
    void *addresses = packet->ip + IP_BYTES - 2 * address_bytes;
    __u64 sum = (__u64)bpf_htons(IPPROTO_UDP) + packet->udp.len;

    tally->verified++;
    if (IP_BYTES == sizeof(struct iphdr) && !is_right((__u32)bpf_csum_diff(0, 0, (void *)packet->ip, IP_BYTES, 0)))
        tally->bad_ip_checksum++;
    sum += (__u32)bpf_csum_diff(0, 0, addresses, 2 * address_bytes, 0);
    sum += (__u32)bpf_csum_diff(0, 0, (void *)&packet->udp, UDP_BYTES, 0);
    if (!packet->udp.check || !is_right(sum))
        tally->bad_udp_checksum++;
}

static __always_inline void measure_delay(int cpu, __u64 sent_ns)
{
    __u64 bucket = (bpf_ktime_get_ns() - sent_ns) >> BUCKET_SHIFT;

    if (bucket > BUCKETS - 1)
        bucket = BUCKETS - 1;
    __u32 index = cpu * BUCKETS + bucket;
    __u64 *delay = delays.lookup(&index);
    if (delay)
        (*delay)++;
}

int count(struct xdp_md *ctx)
{
    struct packet *packet = (void *)(long)ctx->data;
    void *data_end = (void *)(long)ctx->data_end;
    int cpu = bpf_get_smp_processor_id();
    struct tally *tally = tallies.lookup(&cpu);

    if (!tally)
        return XDP_ABORTED;
    if ((void *)packet + HEADERS_END > data_end || !is_expected(packet)) {
        tally->passed++;
        return XDP_PASS;
    }
    tally->packets++;
    tally->bytes += data_end - (void *)packet;
    if ((void *)(packet + 1) > data_end || !has_right_length(packet)) {
        tally->wrong_length++;
        return XDP_DROP;
    }
    if (VERIFY_EVERY && !(tally->packets & (VERIFY_EVERY - 1)))
        verify(tally, packet);
    __u64 sent_ns = *(__u64 *)((void *)&packet->udp + STAMP_OFFSET);
    if (sent_ns)
        measure_delay(cpu, sent_ns);
    return XDP_DROP;
}
