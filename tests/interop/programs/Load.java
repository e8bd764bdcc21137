import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Provider;
import java.security.PublicKey;
import java.security.SecureRandom;
import java.security.Security;
import java.security.Signature;
import java.util.Arrays;
import java.util.concurrent.atomic.AtomicLong;
import javax.crypto.Cipher;
import javax.crypto.KeyGenerator;
import javax.crypto.SecretKey;

/**
 * Eight threads that use a token through SunPKCS11: Load CONFIG ALIAS SECONDS [sign].
 *
 * Half of them sign, half encrypt with AES; with "sign" all sign. The PIN is in TOKEN_PIN.
 */
public final class Load {
    private static final AtomicLong SIGNATURES = new AtomicLong();
    private static final AtomicLong BLOCKS = new AtomicLong();
    private static final AtomicLong ERRORS = new AtomicLong();

    public static void main(String[] args) throws Exception {
        Provider token = Security.getProvider("SunPKCS11").configure(args[0]);
        Security.addProvider(token);
        KeyStore store = KeyStore.getInstance("PKCS11", token);
        store.load(null, System.getenv("TOKEN_PIN").toCharArray());
        PrivateKey key = (PrivateKey) store.getKey(args[1], null);
        PublicKey shown = store.getCertificate(args[1]).getPublicKey();
        KeyGenerator generator = KeyGenerator.getInstance("AES", token);
        generator.init(256);
        // A key of the session lives in one HSM and dies with it; one of the token lives in all of them.
        store.setEntry("load", new KeyStore.SecretKeyEntry(generator.generateKey()), null);
        SecretKey secret = (SecretKey) store.getKey("load", null);
        long end = System.nanoTime() + (long) (Double.parseDouble(args[2]) * 1e9);
        Thread[] threads = new Thread[8];
        for (int number = 0; number < threads.length; number++) {
            boolean signs = number % 2 == 0 || args.length > 3;
            threads[number] = new Thread(() -> {
                SecureRandom random = new SecureRandom();
                while (System.nanoTime() < end) {
                    byte[] data = new byte[256];
                    random.nextBytes(data);
                    try {
                        if (signs) sign(token, key, shown, data); else encrypt(token, secret, data);
                    } catch (Exception error) {
                        ERRORS.incrementAndGet();
                        System.err.println(error + ", from " + error.getCause());
                    }
                }
            });
            threads[number].start();
        }
        for (Thread thread : threads) thread.join();
        store.deleteEntry("load");
        System.out.println("signatures " + SIGNATURES + " blocks " + BLOCKS + " errors " + ERRORS);
        System.exit(ERRORS.get() == 0 ? 0 : 1);
    }

    private static void sign(Provider token, PrivateKey key, PublicKey shown, byte[] data) throws Exception {
        String scheme = key.getAlgorithm().equals("RSA") ? "SHA256withRSA" : "SHA256withECDSA";
        Signature signer = Signature.getInstance(scheme, token);
        signer.initSign(key);
        signer.update(data);
        byte[] made = signer.sign();
        Signature checker = Signature.getInstance(scheme);
        checker.initVerify(shown);
        checker.update(data);
        if (!checker.verify(made)) throw new IllegalStateException("a signature does not hold");
        SIGNATURES.incrementAndGet();
    }

    private static void encrypt(Provider token, SecretKey secret, byte[] data) throws Exception {
        Cipher cipher = Cipher.getInstance("AES/ECB/NoPadding", token);
        cipher.init(Cipher.ENCRYPT_MODE, secret);
        byte[] sealed = cipher.doFinal(data);
        cipher.init(Cipher.DECRYPT_MODE, secret);
        if (Arrays.equals(sealed, data) || !Arrays.equals(cipher.doFinal(sealed), data))
            throw new IllegalStateException("a block did not come back");
        BLOCKS.incrementAndGet();
    }
}
