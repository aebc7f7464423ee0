from rtpproxy.seldom import is_worth_a_line


def test_ever_fewer_are_logged():
    assert [count for count in range(1, 2000) if is_worth_a_line(count)] == [2**power for power in range(11)]
