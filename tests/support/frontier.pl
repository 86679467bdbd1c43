# Calls verbs with Debian's XML-RPC client for Perl (libfrontier-rpc-perl); nothing here knows the protocol itself.
#
# Usage: frontier.pl URL. Each line of the input is a call in JSON, [name, [value, ...]]; a value is [type, content] with
# type s, i, b, a or d for text, int, boolean, array and struct. Each line of the output is the answer in JSON:
# {"value": ...}, with the types that were on the wire, or {"fault": text}.
use strict;
use warnings;
use Frontier::Client;
use JSON::PP;

# With its typed values the client's own texts of faults would hold addresses.
package Frontier::RPC2::DataType {
    use overload '""' => sub { ${ $_[0] } }, fallback => 1;
}

my $client = Frontier::Client->new(url => $ARGV[0], use_objects => 1, encoding => 'UTF-8');
my $json = JSON::PP->new->ascii->canonical->allow_nonref;

sub to_wire {
    my ($type, $content) = @{ $_[0] };
    return [map { to_wire($_) } @$content] if $type eq 'a';
    return { map { $_ => to_wire($content->{$_}) } keys %$content } if $type eq 'd';
    return $client->int($content) if $type eq 'i';
    return $client->boolean($content ? 1 : 0) if $type eq 'b';
    # The client puts its text together as octets.
    utf8::encode($content);
    return $client->string($content);
}

sub from_wire {
    my $value = $_[0];
    my $type = ref($value);
    return [map { from_wire($_) } @$value] if $type eq 'ARRAY';
    return { map { $_ => from_wire($value->{$_}) } keys %$value } if $type eq 'HASH';
    return "" . $value->value if $type eq 'Frontier::RPC2::String';
    return 0 + $value->value if $type eq 'Frontier::RPC2::Integer';
    return $value->value ? JSON::PP::true : JSON::PP::false if $type eq 'Frontier::RPC2::Boolean';
    return 0 + $value if $type eq '';    # a double: the only type that it has no class for when reading
    die "no verb answers with a $type\n";
}

$| = 1;
while (my $line = <STDIN>) {
    my ($name, $values) = @{ $json->decode($line) };
    my $answer = eval { { value => from_wire($client->call($name, map { to_wire($_) } @$values)) } };
    $answer = { fault => "$@" } unless defined $answer;
    print $json->encode($answer), "\n";
}
