<?php
// A login in PHP (8.0 or newer, no packages): the application gives its users tokens, and publishes to their topics.
//
//     php -S 127.0.0.1:8000 examples/login/server.php      (the port is that of the command line)
//
// In an application of your own, a library makes the tokens: firebase/php-jwt, or lcobucci/jwt.

declare(strict_types=1);

define('HUB', getenv('HUB') ?: 'http://127.0.0.1:6455');
define('SECRET', getenv('SECRET') ?: 'at least thirty-two bytes of secret');
const USERS = ['alice' => 'wonderland', 'bob' => 'builder'];

function encode(string $value): string
{
    return rtrim(strtr(base64_encode($value), '+/', '-_'), '=');
}

function sign(string $text): string
{
    return encode(hash_hmac('sha256', $text, SECRET, true));
}

// Returns a token (RFC 7519) with these claims, which is valid for ten minutes.
function token_of(array $claims): string
{
    $header = encode(json_encode(['alg' => 'HS256', 'typ' => 'JWT']));
    $payload = encode(json_encode($claims + ['exp' => time() + 600]));
    return "$header.$payload." . sign("$header.$payload");
}

// Returns the user of a token of this application, or null.
function user_of(string $token): ?string
{
    $parts = explode('.', $token);
    if (count($parts) !== 3 || !hash_equals(sign("$parts[0].$parts[1]"), $parts[2])) {
        return null;
    }
    $claims = json_decode(base64_decode(strtr($parts[1], '-_', '+/')), true);
    return $claims['exp'] > time() ? $claims['sub'] : null;
}

function publish(string $topic, array $message): void
{
    $token = token_of(['sub' => 'application', 'publish' => ['orders/*']]);
    $headers = ["Authorization: Bearer $token", 'Content-Type: application/json'];
    $content = json_encode($message);
    $options = ['method' => 'POST', 'header' => $headers, 'content' => $content, 'timeout' => 5];
    if (file_get_contents(HUB . "/t/$topic", false, stream_context_create(['http' => $options])) === false) {
        throw new RuntimeException('the hub has not taken the message');
    }
}

function answer(int $status, array $body): void
{
    http_response_code($status);
    header('Content-Type: application/json; charset=utf-8');
    echo json_encode((object) $body);
}

function login(): void
{
    ['user' => $user, 'password' => $password] = json_decode(file_get_contents('php://input'), true);
    if (!isset(USERS[$user]) || USERS[$user] !== $password) {
        answer(401, []);
        return;
    }
    $topic = "orders/$user";
    $token = token_of(['sub' => $user, 'subscribe' => [$topic]]);
    answer(200, ['hub' => preg_replace('/^http/', 'ws', HUB), 'topic' => $topic, 'token' => $token]);
}

function pay(): void
{
    $user = user_of(preg_replace('/^Bearer /', '', $_SERVER['HTTP_AUTHORIZATION'] ?? ''));
    if ($user === null) {
        answer(401, []);
        return;
    }
    publish("orders/$user", ['state' => 'paid', 'by' => $user]);
    answer(202, []);
}

match ($_SERVER['REQUEST_METHOD'] . ' ' . parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)) {
    'GET /' => readfile(__DIR__ . '/page.html'),
    'POST /login' => login(),
    'POST /pay' => pay(),
    default => answer(404, []),
};
