#!/usr/bin/env bash
# A real Apache Kafka 4.1.1 on this machine, one node in KRaft mode, on the loopback.
#
#   ./scripts/kafka.sh start|stop|status [--port N] [--dir D]
#
#   --port N   the broker's port, default 9092; the controller takes the next one
#   --dir D    data, logs and the process's id, default ~/.cache/pelton/kafka-data/N
#
# The jars come from Maven Central, once, into ${PELTON_CACHE:-~/.cache/pelton}. Without Java, a running Docker engine is
# used instead; without either, Java and Maven are installed where apt-get can. `start` returns when the broker answers and
# does nothing when it already runs.
set -euo pipefail

version=4.1.1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${PELTON_CACHE:-$HOME/.cache/pelton}
die() { echo "kafka.sh: $*" >&2; exit 1; }
usage() { sed -n '4,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

command=${1:-}; shift || usage
port=9092 dir=
while [ $# -gt 0 ]; do
  case $1 in
    --port) port=${2:?--port needs a number}; shift 2 ;;
    --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
    *) usage ;;
  esac
done
[[ $port =~ ^[0-9]+$ ]] || die "--port $port is not a number"
dir=${dir:-$cache/kafka-data/$port}
container=pelton-kafka-$port

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
alive() { [ -s "$dir/pid" ] && kill -0 "$(cat "$dir/pid")" 2>/dev/null; }
has_java() { command -v java >/dev/null && command -v mvn >/dev/null; }
has_docker() { command -v docker >/dev/null && docker info >/dev/null 2>&1; }

# The class path of the broker, resolved once. The lock lets several callers wait for one download.
classpath() {
  local home=$cache/kafka-$version
  mkdir -p "$home"
  exec 9>"$home/lock"; flock 9
  if [ ! -s "$home/classpath" ]; then
    cat > "$home/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pelton</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.24.3</version></dependency>
  </dependencies>
</project>
POM
    echo "kafka.sh: fetching Apache Kafka $version from Maven Central" >&2
    (cd "$home" && mvn -q -B dependency:build-classpath -Dmdep.outputFile=classpath.new >mvn.log 2>&1) \
      || die "maven could not fetch Kafka; see $home/mvn.log"
    mv "$home/classpath.new" "$home/classpath"
  fi
  exec 9>&-
  cat "$home/classpath"
}

start_java() {
  local cp; cp=$(classpath)
  mkdir -p "$dir"
  cat > "$dir/log4j2.xml" <<'XML'
<Configuration><Appenders><Console name="out"><PatternLayout pattern="%d %p %c %m%n"/></Console></Appenders>
<Loggers><Root level="info"><AppenderRef ref="out"/></Root></Loggers></Configuration>
XML
  # Sessions of one second let tests kill consumers and go on at once; 32 MiB let them send what is too large.
  cat > "$dir/node.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:$((port + 1))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
message.max.bytes=33554432
PROPERTIES
  local run=(java -Dlog4j2.configurationFile="$dir/log4j2.xml" -cp "$cp")
  if [ ! -e "$dir/data/meta.properties" ]; then
    local id; id=$("${run[@]}" kafka.tools.StorageTool random-uuid 2>/dev/null | tail -1)
    "${run[@]}" kafka.tools.StorageTool format --standalone -t "$id" -c "$dir/node.properties" >"$dir/format.log" 2>&1 \
      || die "the data folder could not be formatted; see $dir/format.log"
  fi
  : > "$dir/server.log"
  setsid nohup "${run[@]}" -Xms128m -Xmx512m kafka.Kafka "$dir/node.properties" >"$dir/server.log" 2>&1 < /dev/null &
  echo $! > "$dir/pid"
  for _ in $(seq 240); do
    if grep -q "Kafka Server started" "$dir/server.log" && listens; then return 0; fi
    alive || die "the broker ended while starting; see $dir/server.log"
    sleep 0.25
  done
  die "the broker did not answer within a minute; see $dir/server.log"
}

start_docker() {
  docker rm -f "$container" >/dev/null 2>&1 || true
  docker run -d --name "$container" --network host \
    -e KAFKA_NODE_ID=1 -e KAFKA_PROCESS_ROLES=broker,controller \
    -e KAFKA_LISTENERS="PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))" \
    -e KAFKA_ADVERTISED_LISTENERS="PLAINTEXT://127.0.0.1:$port" \
    -e KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER \
    -e KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT \
    -e KAFKA_CONTROLLER_QUORUM_VOTERS="1@127.0.0.1:$((port + 1))" \
    -e KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1 -e KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1 \
    -e KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1 -e KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0 \
    -e KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS=1000 -e KAFKA_MESSAGE_MAX_BYTES=33554432 \
    "apache/kafka:$version" >/dev/null
  for _ in $(seq 240); do
    if docker logs "$container" 2>&1 | grep -q "Kafka Server started" && listens; then return 0; fi
    sleep 0.25
  done
  die "the container $container did not answer within a minute; see docker logs $container"
}

start() {
  if alive && listens; then echo "kafka.sh: runs already on 127.0.0.1:$port" >&2; return 0; fi
  if listens; then die "port $port is taken by something else; give another --port"; fi
  if has_java; then start_java
  elif has_docker; then start_docker
  elif [ -x "$here/system.sh" ]; then "$here/system.sh"; start_java
  else die "needs Java 17 and Maven, or a running Docker engine"; fi
  echo "kafka.sh: Apache Kafka $version answers on 127.0.0.1:$port" >&2
}

stop() {
  if alive; then
    local pid; pid=$(cat "$dir/pid")
    kill -TERM "$pid"
    for _ in $(seq 80); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
    kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$dir/pid"
  if has_docker; then docker rm -f "$container" >/dev/null 2>&1 || true; fi
}

status() {
  if listens; then echo "up 127.0.0.1:$port"; else echo "down 127.0.0.1:$port"; return 1; fi
}

case $command in
  start) start ;;
  stop) stop ;;
  status) status ;;
  *) usage ;;
esac
